"""Milliseconds of the exported vision graph whose frames merge, and what it keeps: `python -m glyph_clips.clock OUT`.

The graph is what people run: pixels in, embeddings out, on ONNX Runtime and on OpenVINO as they come, plans in turns.
`--taught CHECKPOINT` adds what an encoder keeps of the answers that `python -m glyph_clips.distil --keep 2` taught;
weights do not change a graph's time. Writes `docs/results/clip-graphs-time.json`, a record a line, which
`python -m glyph_clips.merged` puts into its page. Times need a quiet machine; `--prepare` makes the graphs before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from luvc_export import export_bundle
from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration import intervals
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.core.plan.merging import TimeMerge
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend

from .cases import CHECKPOINT, SIZE, cases
from .films import MOMENTS
from .study import RESULTS, Study, nothing

FILE = "clip-graphs-time.json"
COMMAND = "python -m glyph_clips.clock OUT"
#: Block after which units merge, and how many of a place's 8 are left.
PLANS: tuple[tuple[int | None, int], ...] = ((None, MOMENTS), (0, 3), (0, 2), (0, 1))
#: Films in one call: one is mostly calls of operators.
FILMS = (1, 8)
TURNS = 15
DISTURBED = 2
ENGINES: dict[str, Callable[[Bundle], Any]] = {
    "ONNX Runtime fp32": lambda bundle: OrtBackend(bundle, bundle.entry("plan")),
    "OpenVINO as it comes": lambda bundle: OpenVinoBackend(bundle, bundle.entry("plan"), arithmetic="auto"),
}


def merging(block: int | None, keep: int) -> Plan:
    """Return the plan that merges after `block`, none where that is None; the LLM keeps every token."""
    whole = nothing()
    if block is None:
        return whole
    return replace(whole, encoder=replace(whole.encoder, time=TimeMerge(block, MOMENTS, keep)))


def exported(out: Path, block: int | None, keep: int) -> Bundle:
    """Return the bundle of a plan, exported unless it is there."""
    folder = out / f"merged-{block}-{keep}"
    if not folder.is_dir():
        plans = {"plan": merging(block, keep)}
        export_bundle(str(CHECKPOINT), folder, plans, image_size=SIZE, text_capacity=64, video=True)
    return load(folder)


def timed(bundles: dict[Any, Bundle], turns: int = TURNS) -> list[dict[str, Any]]:
    """A row for every engine, number of films and plan: milliseconds of a call, median, shortest and longest."""
    opened, rows = open_checkpoint(str(CHECKPOINT)), list[dict[str, Any]]()
    encoder = opened.family.encoder_shape(opened.config)
    for engine, opens in ENGINES.items():
        graphs = {place: opens(bundle) for place, bundle in bundles.items()}
        for films in FILMS:
            taken: dict[Any, list[float]] = {place: [] for place in graphs}
            for turn in range(turns + 2):
                clip = np.random.default_rng(turn).integers(0, 256, (films * MOMENTS, 2, *SIZE, 3), np.uint8)
                for place, graph in graphs.items():
                    begin = perf_counter()
                    graph.vision(clip)
                    taken[place].append(1000 * (perf_counter() - begin))
            for (block, keep), times in taken.items():
                flops = encoder_ratio(bundles[block, keep].entry("plan").plan.encoder, encoder)
                kept = [statistics.median(times[2:]), min(times[2:]), max(times[2:])]
                row = {"engine": engine, "films": films, "block": block, "keep": keep, "flops": round(flops, 3)}
                row |= {"ms": [round(value, 2) for value in kept], "runs": turns}
                row["cpu"] = f"{len(os.sched_getaffinity(0))} cores with {', '.join(cpu_features())}"
                rows.append(row)
    return rows


def kept(taught: Path, steps: str, keep: int, count: int) -> dict[str, Any]:
    """What a taught encoder keeps of the shipped one's right answers."""
    asked = list(cases("heldout", count))
    films = [case.picture for case in asked]
    full = Study(open_checkpoint(str(CHECKPOINT)), asked).of(nothing())
    right = Study(open_checkpoint(str(taught)), asked).of(merging(0, keep))
    retention = [round(value, 4) for value in intervals.retention(right, full, films)]
    return {"keep": keep, "steps": steps, "questions": count, "retention": retention}


def table(data: dict[str, Any]) -> list[str]:
    """The times and what taught encoders keep, as lines of the page."""
    rows: Sequence[dict[str, Any]] = data.get("rows", [])
    if not rows:
        return []
    lines = [
        "",
        "## As time of the exported graph",
        "",
        f"`{COMMAND}`: this model's vision graph, pixels to embeddings, on {rows[0]['cpu']}; milliseconds of a call,"
        f" medians of {rows[0]['runs']} in turns, shortest and longest. One film is"
        " mostly calls of small operators; eight in one call are less so. Where a plan's longest call took"
        f" {DISTURBED} times its shortest or more, other processes were there, and no ratio is taken.",
        "",
        "| engine | films | after block | moments left | encoder FLOPs | ms | sooner |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    whole = {(row["engine"], row["films"]): row["ms"][0] for row in rows if row["block"] is None}
    for row in rows:
        taken = "{:.1f} ({:.1f} to {:.1f})".format(*row["ms"])
        where = "none" if row["block"] is None else row["block"]
        steady = all(row["ms"][2] < DISTURBED * row["ms"][1] for row in alike(rows, row))
        sooner = f"{whole[row['engine'], row['films']] / row['ms'][0]:.2f}x" if steady else "disturbed"
        place = f"{row['engine']} | {row['films']} | {where} | {row['keep']}"
        lines.append(f"| {place} | {row['flops']:.2f}x | {taken} | {sooner} |")
    for row in data.get("taught", []):
        share = "{:.3f} ({:.3f} to {:.3f})".format(*row["retention"])
        lines += ["", f"Taught to merge to {row['keep']} of {MOMENTS} ({row['steps']}), it keeps {share}."]
    return lines


def alike(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows whose plans took turns with this one."""
    return [one for one in rows if (one["engine"], one["films"]) == (row["engine"], row["films"])]


def main() -> None:
    """Prepare, time or ask, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the bundles")
    parser.add_argument("--prepare", action="store_true", help="make the graphs, and time nothing")
    parser.add_argument("--taught", type=Path, help="ask this checkpoint, and time nothing")
    parser.add_argument("--keep", type=int, default=2, help="moments that it was taught to merge to")
    parser.add_argument("--steps", default="", help="how it was taught, in words for the page")
    parser.add_argument("--questions", type=int, default=600, help="three about each film")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    file = args.output / FILE
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"taught": [], "rows": []}
    if args.taught is not None:
        torch.set_num_threads(1)
        row = kept(args.taught, args.steps, args.keep, args.questions)
        data["taught"] = [*(one for one in data["taught"] if one["keep"] != args.keep), row]
        print(row)
    else:
        bundles = {place: exported(args.out, *place) for place in PLANS}
        if args.prepare:
            return
        data["rows"] = timed(bundles)
    parts = {name: ",\n".join(json.dumps(row) for row in data[name]) for name in ("taught", "rows")}
    text = f'{{"taught": [\n{parts["taught"]}\n], "rows": [\n{parts["rows"]}\n]}}\n'
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
