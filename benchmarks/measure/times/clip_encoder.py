"""A large encoder whose frames merge along time: seconds of the vision graph, plans in turns.

Run: ``python benchmarks/measure/times/clip_encoder.py OUT --prepare``, then without it on a quiet machine. Makes a
checkpoint of random weights with Qwen2.5-VL-3B's encoder cut to 9 blocks, exports a plan that merges nothing and those
of ``PLANS``, and runs each vision graph on a clip of 16 frames of noise, all cores. Writes
``docs/results/clip-encoder.json``, a record a line; ``python -m glyph_clips.merged --times`` puts it into its page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from luvc_export import export_bundle
from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.core.plan.merging import TimeMerge
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.pipeline import make_plan
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend

RESULTS = Path(__file__).parents[3] / "docs" / "results"
COMMAND = "python benchmarks/measure/times/clip_encoder.py OUT"
SIDE, FRAMES, MOMENTS, BLOCKS = 448, 16, 8, 9
#: Block after which frames merge, and moments that are left of 8.
PLANS: tuple[tuple[int | None, int], ...] = ((None, MOMENTS), (0, 3), (0, 4))
#: What opens a plan's graphs, by engine and arithmetic.
ENGINES: dict[str, Callable[[Bundle], Any]] = {
    "ONNX Runtime fp32": lambda bundle: OrtBackend(bundle, bundle.entry("plan")),
    "OpenVINO as it comes": lambda bundle: OpenVinoBackend(bundle, bundle.entry("plan"), arithmetic="auto"),
}


def bundle_of(out: Path, block: int | None, keep: int) -> Path:
    """Folder of a plan's bundle, exported unless it is there."""
    folder, checkpoint = out / f"merged-{block}-{keep}", out / "checkpoint"
    if not checkpoint.is_dir():
        sizes = ["--layers", "1", "--encoder-blocks", str(BLOCKS), "--dtype", "fp32"]
        command = [sys.executable, "-m", "luvc_export", "make-random", "qwen2.5-vl-3b", "-o", str(checkpoint), *sizes]
        subprocess.run(command, check=True)
    if not folder.is_dir():
        plan = make_plan(str(checkpoint), "none", image_size=(SIDE, SIDE), joint_images=MOMENTS)
        if block is not None:
            plan = replace(plan, encoder=replace(plan.encoder, time=TimeMerge(block, MOMENTS, keep)))
        whole: dict[str, Any] = {"image_size": (SIDE, SIDE), "text_capacity": 64, "weights": "reference", "video": True}
        export_bundle(str(checkpoint), folder, {"plan": plan}, **whole)
    return folder


def main() -> None:
    """Prepare, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prepare", action="store_true", help="make what is missing, and time nothing")
    parser.add_argument("--runs", type=int, default=2, help="timed runs of each graph, after one that is not")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folders = {place: bundle_of(args.out, *place) for place in PLANS}
    if args.prepare:
        return
    opened, rows = open_checkpoint(str(args.out / "checkpoint")), list[dict[str, Any]]()
    encoder = opened.family.encoder_shape(opened.config)
    bundles = {place: load(folder) for place, folder in folders.items()}
    for engine, opens in ENGINES.items():
        graphs = {place: opens(bundle) for place, bundle in bundles.items()}
        taken: dict[Any, list[float]] = {place: [] for place in PLANS}
        for run in range(args.runs + 1):
            clip = np.random.default_rng(run).integers(0, 256, (MOMENTS, 2, SIDE, SIDE, 3), np.uint8)
            for place, graph in graphs.items():
                begin = perf_counter()
                graph.vision(clip)
                taken[place].append(perf_counter() - begin)
        for (block, keep), times in taken.items():
            plan, seconds = bundles[block, keep].entry("plan").plan, times[1:]
            row = {
                "engine": engine,
                "block": block,
                "keep": keep,
                "flops": round(encoder_ratio(plan.encoder, encoder), 3),
                "seconds": [round(value, 3) for value in (statistics.median(seconds), min(seconds), max(seconds))],
                "runs": args.runs,
                "command": COMMAND,
                "shape": f"Qwen2.5-VL-3B's encoder cut to {BLOCKS} blocks",
                "frames": FRAMES,
                "size": f"{SIDE} x {SIDE}",
                "cpu": f"{len(os.sched_getaffinity(0))} cores with {', '.join(cpu_features())}",
            }
            print(row, flush=True)
            rows.append(row)
        del graphs
    lines = ",\n".join(json.dumps(row) for row in rows)
    (args.output / "clip-encoder.json").write_text(f'{{"rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
