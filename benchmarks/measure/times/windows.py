"""What it saves that rows leave sliding windows: bytes of caches and a step's time behind long chats, both ways.

Run: ``python benchmarks/measure/times/windows.py BUNDLE [--text 4096] [--rows 1 8] [--backend cpu openvino]``, of a
model with sliding windows, such as ``checkpoint-272-exit`` of ``gemma4.py``. Keys and values are random, places are
those of a text: nothing is asked, no picture is needed. Steps of caches that lost rows and of those that keep all take
turns. Bytes of the whole of Gemma 4 E2B are predicted (``kv_bytes``), in 16 bits.

Records go to docs/results/windows.json, the page beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from luvc_export.core.budgets import kv_bytes
from luvc_export.core.shapes import PLACE, DecoderShape
from luvc_export.runtime.host.windows import Windows
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import RowsState

HERE = Path(__file__).resolve()
PAGE = HERE.parents[3] / "docs" / "results" / "windows.md"
#: The first steps copy what is handed on, and pack weights.
WARM = 3
TEXTS = (1024, 4096, 32768, 131072)


def predictions() -> list[dict[str, Any]]:
    """Bytes of one conversation of E2B in 16 bits, with rows that leave and without, by tokens of text."""
    from transformers import AutoConfig

    from luvc_export.export import families
    from luvc_export.export.synthetic.presets import PRESETS

    fields = dict(PRESETS["gemma4-e2b"].config)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    shape = families.find("gemma4", "windows").decoder_shape(config)
    stays = without_windows(shape)
    keep = [280] * shape.layers
    return [
        {
            "part": "bytes",
            "text": text,
            "near": sum(kv_bytes(shape, keep, text)),
            "all": sum(kv_bytes(stays, keep, text)),
        }
        for text in TEXTS
    ]


def without_windows(shape: DecoderShape) -> DecoderShape:
    """The same model as bundles of before have it."""
    return replace(shape, states=tuple(replace(state, window=None) for state in shape.states))


def steps(bundle: Path, backend: str, text: int, rows: int, count: int) -> dict[str, Any]:
    """Milliseconds of a step after ``text`` tokens in each of ``rows`` rows, and bytes of the caches, both ways."""
    plan = Session(bundle, backend).default
    plan.load(images=False)
    graphs, decoder, random = plan.graphs, plan.bundle.manifest.decoder, np.random.default_rng(0)
    engine: Any = plan.backend
    values = []
    for state in engine.states:
        size = state.sizes(rows, text)
        place = np.broadcast_to(np.arange(text), (rows, text)).copy()
        values.append(place if state.name == PLACE else random.standard_normal(size, np.float32))
    mask, places = np.ones((rows, text), np.bool_), np.full(rows, text)
    whole = RowsState(engine.adopt(values), mask, places, places, (None,) * rows)
    ways = {"near": graphs.windows, "all": Windows((), plan.plan)}
    states = {name: replace(whole, cache=way.left(engine, whole.cache, mask, places)) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    nbytes = {name: state.cache.nbytes for name, state in states.items()}
    for step in range(WARM + count):
        for name, way in ways.items():
            graphs.windows, begin = way, perf_counter()
            states[name] = graphs.step([7] * rows, states[name]).state
            if step >= WARM:
                times[name].append(round(1000 * (perf_counter() - begin), 2))
    windows = sorted({state.window for state in decoder.states if state.window})
    facts = {"layers": decoder.layers, "cached": decoder.cached, "slide": len(decoder.most_rows), "windows": windows}
    names = {"runs_in": f"{engine.name} {engine.arithmetic}", "cpu": _cpu()}
    return {"part": "steps", "text": text, "rows": rows, "ms": times, "bytes": nbytes, **facts, **names}


def page(records: list[dict[str, Any]]) -> str:
    """Both tables."""
    lines = ["# Rows that leave a sliding window", "", "Written by `python benchmarks/measure/times/windows.py BUNDLE`"
             " ([how it is done](../algorithm.md#states-beside-the-caches)).", "",
             "## Bytes of a conversation",
             "", "Predicted for Gemma 4 E2B (15 layers with caches, 12 of them slide by 512) in 16 bits, a picture of"
             " 280 tokens and so much text, plan `none`: after a call; during one, its own rows stand beside them.", "",
             "| text | rows leave, MiB | all rows stay, MiB | |", "|---|---|---|---|"]  # fmt: skip
    for one in (one for one in records if one["part"] == "bytes"):
        near, whole = one["near"] / 2**20, one["all"] / 2**20
        lines.append(f"| {one['text']:,} | {near:.1f} | {whole:.1f} | {whole / near:.2f}x |")
    timed = [one for one in records if one["part"] == "steps"]
    if timed:
        one = timed[0]
        lines += ["", "## A step behind a long chat", "", f"E2B's shape, the first {one['layers']} layers of random"
                  f" weights ({one['cached']} with caches, {one['slide']} slide by {one['windows'][0]}); median (least"
                  f" to most), both in one process, taking turns. {one['cpu']}.", "",
                  "| text | rows of a batch | runs in | rows leave, ms | all rows stay, ms | | caches, MB | all, MB |",
                  "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in timed:
        near, whole = (one["ms"][name] for name in ("near", "all"))
        spans = [f"{statistics.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})" for ms in (near, whole)]
        faster = f"{statistics.median(whole) / statistics.median(near):.2f}x"
        sizes = [f"{one['bytes'][name] / 1e6:.1f}" for name in ("near", "all")]
        cells = [f"{one['text']:,}", str(one["rows"]), one["runs_in"], *spans, faster, *sizes]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    sys.path.insert(0, str(HERE.parents[2]))
    from run import cpu

    return str(cpu())


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="None: predictions alone.")
    parser.add_argument("--text", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--backend", nargs="+", default=["cpu", "openvino"])
    parser.add_argument("--steps", type=int, default=15)
    asked = parser.parse_args()
    figures = PAGE.with_suffix(".json")
    before = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else []
    records = predictions() + [one for one in before if one["part"] == "steps" and asked.bundle is None]
    for backend in asked.backend if asked.bundle else ():
        for rows in asked.rows:
            records.append(steps(asked.bundle, backend, asked.text, rows, asked.steps))
            print(json.dumps(records[-1]), flush=True)
    figures.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")


if __name__ == "__main__":
    main()
