"""The saved cases of plugins/tests/cases: inputs, and what the Python functions made of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

CASES = Path(__file__).resolve().parents[2] / "plugins" / "tests" / "cases"


class Case(NamedTuple):
    """Numbers and tensors, flat, of one file."""

    keys: dict[str, str]
    tensors: dict[str, torch.Tensor]

    def number(self, name: str) -> int:
        return int(self.keys[name])


def load(path: Path) -> Case:
    head, _, payload = path.read_bytes().partition(b"\n\n")
    keys: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    for line in head.decode().splitlines():
        key, *rest = line.split()
        if key != "tensor":
            keys[key] = rest[0]
            continue
        name, dtype, size = rest
        raw, payload = bytearray(payload[: int(size)]), payload[int(size) :]
        kind = getattr(torch, dtype)
        tensors[name] = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
    return Case(keys, tensors)
