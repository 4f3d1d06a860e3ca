"""What was measured, kept after every variant: a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.export.compression import scores

#: Bytes of the largest file: a record is a few hundred.
_MOST = 2**28


class Store:
    """A JSON file of records by key; ``of`` measures only what is not there.

    Args:
        path: File, read if it is there and made for the same ``about``, else begun anew.
        about: What every record depends on: checkpoint, task, version of the records.

    Raises:
        UsageError: Something else lies at ``path``.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.records: dict[str, Any] = {}
        self._lines: dict[str, str] = {}
        if path.is_file():
            data = read_json(path, _MOST, UsageError, "the file of measurements")
            if not isinstance(data, dict) or not isinstance(data.get("records"), dict):
                raise UsageError(
                    "this is no file of measurements",
                    where=str(path),
                    expected="what an interrupted run left there",
                    fix="name another folder, or move the file away",
                )
            if data.get("about") == about:
                self.records = data["records"]

    def of(self, key: Any, measure: Callable[[], Any]) -> Any:
        """The record of ``key`` (plain data), measured if need be."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        if name not in self.records:
            self.records[name] = {"key": key, "value": measure()}
            self.save()
        return self.records[name]["value"]

    def save(self) -> None:
        """Write whole or not at all, a record a line; each is put to words once and never changes."""
        for name in self.records.keys() - self._lines.keys():
            self._lines[name] = f"{json.dumps(name)}: {json.dumps(self.records[name])}"
        lines = ",\n".join(self._lines[name] for name in self.records)
        write_whole(self.path, f'{{"about": {json.dumps(self.about)}, "records": {{\n{lines}\n}}}}\n')


def pack(right: list[bool]) -> str:
    """Verdicts as hexadecimal bits, eight a byte."""
    return np.packbits(np.asarray(right, dtype=np.bool_)).tobytes().hex()


def unpack(text: str, count: int) -> list[bool]:
    """The first ``count`` verdicts of ``pack``."""
    return [*map(bool, np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count])]


def plan_key(plan: Plan) -> dict[str, Any]:
    """What a plan's measurement depends on: its name for people and switches nothing reads are left out.

    An installed score may read every switch.
    """
    data, unread = plan.to_json(), set[str]()
    if plan.llm.reducer == "merge" or not plan.prunes_tokens:
        unread = {"method", "axis", "spectrum"}
    elif plan.llm.method.name in scores.built_in() and not plan.llm.method.reads_spectrum:
        unread = {"axis", "spectrum"}
    data["llm"] = {name: value for name, value in data["llm"].items() if name not in unread}
    return {name: value for name, value in data.items() if name != "schedule"}


def weights_hash(folder: Path) -> str:
    """Of a checkpoint's weight files, whole."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
