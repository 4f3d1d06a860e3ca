"""Put what ``make gpu-check`` measured on a GPU on a page: ``python tests/gpu/page.py gpu-check-out``.

Reads the folder's ``layers-*.json``, ``transformers-*.json``, ``kernels-against-torch-*.jsonl`` and other
``kernels-*.jsonl``, and writes docs/results/gpu.json and docs/results/gpu.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luvc_export.core.files.pages import table

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
Row = dict[str, Any]
HEAD = """# On a GPU

Written by `python tests/gpu/page.py FOLDER` from what [`make gpu-check`](../trial.md) leaves there. {device}, compute
capability {compute_capability}, driver {driver};
{versions}.
Weights are random in published sizes, bf16; {text} tokens of text behind the picture.
No engine is among these figures: TensorRT-RTX 1.7.1 refuses compute capability 9.0 ("does not support this compute
capability"), and TensorRT was not at hand. Plans are the recipes of 26 November 2026: `lean` is not
[today's](../plans.md#which-one), and `safe` was not timed. Commands:

{commands}
"""
LAYERS = """
## LLM layers under a CUDA graph

`time_layers.py`: torch's own kernels, no host between them, so a prune costs what its kernels cost. Medians.

"""
MODELS = """
## Whole models inside transformers

`time_transformers.py`: `generate` as it comes, and the same inside `luvc_export.compressed`; a new picture and prompt
each, plans in turns; medians. Here the host starts every kernel: what a picture waits for is Python as much as
the GPU, and steps go through modules made for tracing, with no fused kernels of transformers.

"""
NATIVE = """
## SpectrumPrune's kernel and torch

`time_kernels.py`, fp16, half of N kept, score `low` (rho 0.25); torch takes its products in fp32. Called from Python,
so a tenth of a millisecond and more of each is the call. "No": one kept token or more is another. Scores of noise lie
close, and the two add up in other orders; how close those were was not measured.

"""
KERNELS = """
## The kernels under a CUDA graph

`luvc_bench`, bf16, half of N kept: medians, caches emptied between. The floor is the bytes at the speed of a copy.

"""


def read(folder: Path) -> dict[str, Any]:
    """Machine and rows by measurement."""
    whole: dict[str, Any] = {"layers": [], "transformers": [], "native": [], "kernels": [], "commands": []}
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        whole["machine"] = data["machine"]
        whole["commands"].append(data["command"].partition(" -o ")[0])
        whole[path.name.split("-")[0]] += data["rows"]
    for path in sorted(folder.glob("kernels-*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        whole["native" if "against-torch" in path.name else "kernels"] += rows
    return whole


def page(whole: dict[str, Any]) -> str:
    """The page."""
    where = whole["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    commands = "\n".join(f"- `{command}`" for command in whole["commands"])
    texts = sorted({row["text_tokens"] for row in whole["layers"] + whole["transformers"]})
    parts = [HEAD.format(**{**where, "versions": versions, "text": ", ".join(map(str, texts)), "commands": commands})]
    head = ("model", "visual tokens", "plan", "prefill, ms", "sooner", "step, ms", "KV cache, MiB")
    parts += [LAYERS, table(head, _layers(whole["layers"]), left=3)]
    head = ("model", "visual tokens", "plan", "first token, ms", "least", "sooner", "step, ms")
    parts += [MODELS, table(head, _models(whole["transformers"]), left=3)]
    head = ("N", "D", "native, us", "torch, us", "same tokens")
    parts += [NATIVE, table(head, _native(whole["native"]))]
    head = ("kernel", "size", "us", "times the floor")
    parts += [KERNELS, table(head, _kernels(whole["kernels"]), left=2)]
    return "".join(parts)


def _layers(rows: list[Row]) -> Iterator[list[str]]:
    for row in rows:
        assert row["same"], f"a replayed graph differs from plain execution: {row}"
        yield [row["model"], str(row["units"]), row["plan"], f"{row['prefill_ms']:.1f}",
               f"{row['prefill_speedup']:.2f}", f"{row['decode_ms']:.2f}", f"{row['kv_mib']:.0f}"]  # fmt: skip


def _models(rows: list[Row]) -> Iterator[list[str]]:
    for row in rows:
        yield [row["model"], str(row["units"]), row["plan"], f"{row['first_token_ms']:.0f}", f"{row['least_ms']:.0f}",
               f"{row['first_token_speedup']:.2f}", f"{row['step_ms']:.0f}"]  # fmt: skip


def _native(rows: list[Row]) -> Iterator[list[str]]:
    for row in rows:
        same = "yes" if row["same_choice"] else "no"
        yield [str(row["N"]), str(row["D"]), f"{row['native_us']:.0f}", f"{row['torch_us']:.0f}", same]


def _kernels(rows: list[Row]) -> Iterator[list[str]]:
    for row in rows:
        size = ", ".join(f"{name} {row[name]}" for name in ("N", "D", "K", "M", "H", "W", "C") if name in row)
        yield [row["kernel"], size, f"{row['median_us']:.1f}", f"{row['times_floor']:.1f}"]


def main(folder: Path) -> None:
    """Write both files."""
    whole = read(folder)
    lines = [f' "{name}": {json.dumps(value)}' for name, value in sorted(whole.items())]
    (RESULTS / "gpu.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    (RESULTS / "gpu.md").write_text(page(whole), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
