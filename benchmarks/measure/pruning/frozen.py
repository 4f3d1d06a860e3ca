"""Prefill of a bundle by plan, with a picture and without, in turns: writes frozen.md and frozen.json.

    luvc-export make-random qwen2.5-vl-3b --layers 4 --encoder-blocks 2 --dtype fp32 -o MODEL
    luvc-export plan MODEL --image-size 896x896 --merge-keep 1 --plan 1024,1024,1024,0 -o full.json
    ... --plan 1024,1024,1024,0 --kv-only 0-2 -o frozen.json
    ... --plan 1024,614,614,614 --kv-only 1-2 --last-layer kv_only --rho 0.5 -o mix.json
    luvc-export export MODEL -o BUNDLE --image-size 896x896 --weights reference --plan none --plan full.json ...
    python benchmarks/measure/pruning/frozen.py BUNDLE docs/results

One thread, fp32, ONNX Runtime, processor seconds, the median of the turns. A plan's ratio is the measured
prefill of `none` by its own, against that of the FLOPs that `luvc-export plan` counts. What a frozen layer takes of
its visual work is what the picture adds to `frozen` by what it adds to `full`, with visual tokens in the same layers.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.bundle.folder import load
from luvc_export.core.plan.cost import cost
from luvc_export.runtime.session import Session

TEXT, TURNS, PLANS = 64, 2, ("none", "full", "frozen", "mix")


def measure(folder: str) -> dict[str, Any]:
    """Return seconds and FLOPs by plan."""
    bundle = load(folder)
    height, width = bundle.manifest.image.size
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, height, width, 3), dtype=np.uint8)
    words = list(range(1000, 1000 + TEXT))
    token, seen = bundle.manifest.prompt.image_token_id, None
    taken: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for plan in PLANS:  # one at a time: each session has its own copy of the weights
            session = Session(bundle, "cpu", plan=plan, threads=1, arithmetic="fp32")
            seen = session.default.encode_images(picture) if seen is None else seen
            session.default.run(words, None, None)
            for name, ids, images in ((plan, [*words[:32], token, *words[32:]], seen), (f"{plan}, text", words, None)):
                begin = time.process_time()
                session.default.run(ids, images, None)
                taken.setdefault(name, []).append(time.process_time() - begin)
                print(name, round(taken[name][-1], 3), file=sys.stderr, flush=True)
            del session
            gc.collect()
    figures = {}
    for name in PLANS:
        plan = bundle.entry(name).plan
        figures[name] = {
            "plan": {"keep": list(plan.keep), "kv_only": list(plan.llm.kv_only), "last_layer": plan.llm.last_layer},
            "flops": cost(plan, bundle.manifest.decoder, TEXT).flops,
            "seconds": statistics.median(taken[name]),
            "text": statistics.median(taken[f"{name}, text"]),
            "turns": [round(value, 4) for value in taken[name]],
        }
    return figures


def page(figures: dict[str, Any]) -> str:
    """Return the document; every figure in it was measured by the run that wrote the data."""
    none = figures["none"]
    lines = [
        "# Frozen layers in time: measurements",
        "",
        "Written by `python benchmarks/measure/pruning/frozen.py BUNDLE docs/results`, which says how the bundle was "
        "made. "
        "Do not edit: run it again.",
        "",
        f"Layer shapes of Qwen2.5-VL-3B, four LLM layers, random weights, 1,024 visual and {TEXT} text tokens, fp32, "
        f"one thread of ONNX Runtime, processor seconds of a prefill, median of {TURNS} turns.",
        "",
        "| plan | visual tokens by layer | frozen | seconds | without the picture | faster | FLOPs fewer | of that |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in figures.items():
        faster, fewer = none["seconds"] / row["seconds"], none["flops"] / row["flops"]
        keep, still = (" ".join(map(str, row["plan"][part])) for part in ("keep", "kv_only"))
        still += " and the last" if row["plan"]["last_layer"] == "kv_only" else ""
        lines.append(
            f"| {name} | {keep} | {still} | {row['seconds']:.3f} | {row['text']:.3f} | {faster:.2f}x | {fewer:.2f}x | "
            f"{faster / fewer:.2f} |"
        )
    share = (figures["frozen"]["seconds"] - figures["frozen"]["text"]) / (
        figures["full"]["seconds"] - figures["full"]["text"]
    )
    return "\n".join(
        [*lines, "", f"A frozen layer takes {share:.1%} of the time that its visual tokens take else.", ""]
    )


def main(folder: str, output: str) -> None:
    """Measure and write."""
    figures = measure(folder)
    Path(output, "frozen.json").write_text(json.dumps(figures, indent=1) + "\n")
    Path(output, "frozen.md").write_text(page(figures), encoding="utf-8")
    print(page(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
