"""What merging along time inside the encoder keeps of answers, and saves: `python -m glyph_clips.merged`.

Every token goes to the LLM, so what is lost is the encoder's. Times are processor time of one thread of the torch
encoder, plans in turns. Writes `docs/results/clip-time.json`, a record a line, and `docs/results/clip-time.md`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.core.cost.encoder import encoder_ratio
from luvc_export.core.plan import Plan
from luvc_export.core.plan.time_merge import TimeMerge
from luvc_export.export.checkpoint import open_checkpoint

from .cases import CHECKPOINT, cases
from .films import MOMENTS
from .study import RESULTS, Study, nothing

#: Block after which units merge, of 0 to 3, and how many of a place's 8 are left.
PLANS = ((0, 6), (0, 4), (0, 3), (1, 4))
TURNS = 9


def merging(block: int, keep: int) -> Plan:
    """Return the plan that merges; the LLM keeps every token."""
    whole = nothing()
    return replace(whole, encoder=replace(whole.encoder, time=TimeMerge(block, MOMENTS, keep)))


def milliseconds(study: Study, plans: Sequence[Plan]) -> list[float]:
    """Return processor time of the encoder for one film, by plan: medians of turns."""
    shown = np.stack(study.asked[0].video).reshape(MOMENTS, 2, *study.asked[0].video[0].shape)
    encoders = [TorchCalls(study.checkpoint, study.model, plan).encoder for plan in plans]
    taken: list[list[float]] = [[] for _ in plans]
    with torch.no_grad():
        for _ in range(TURNS + 1):
            for encoder, times in zip(encoders, taken, strict=True):
                begin = time.thread_time()
                encoder(torch.from_numpy(shown))
                times.append(1000 * (time.thread_time() - begin))
    return [float(np.median(times[1:])) for times in taken]


def page(found: Sequence[dict[str, Any]], weights: str) -> str:
    """Return the document."""
    lines = [
        "# Merging along time inside the encoder",
        "",
        "Written by `python -m glyph_clips.merged` in `examples`. Do not edit: run it again.",
        "",
        f"`glyph_clips` (examples/glyph_clips/MODEL_CARD.md), checkpoint sha256 `{weights}`, split `heldout`,"
        f" {found[0]['questions']} questions, three about each film of {MOMENTS} moments; intervals are 95 %, clustered"
        " by film. The LLM keeps every token. The encoder has 4 blocks, 0 to 3; FLOPs are theirs, times processor"
        " milliseconds of one thread of the torch encoder for one film, medians in turns.",
        "",
        "| after block | moments left | retention | encoder FLOPs | ms | sooner |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        kept = "{:.3f} ({:.3f} to {:.3f})".format(*row["retention"])
        sooner = found[0]["ms"] / row["ms"]
        where = "none" if row["block"] is None else row["block"]
        lines.append(f"| {where} | {row['keep']} | {kept} | {row['flops']:.2f}x | {row['ms']:.0f} | {sooner:.2f}x |")
    told = (
        "Four blocks are few: what merges after the first has seen one block, and saving much means merging there. Deep"
        " encoders may merge later, after a third of their blocks; no instrument here has one."
    )
    return "\n".join([*lines, "", told, ""])


def main() -> None:
    """Answer, time and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300, help="three about each film")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the figures and the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(open_checkpoint(str(CHECKPOINT)), list(cases("heldout", args.questions)))
    films = [case.picture for case in study.asked]
    encoder = study.checkpoint.family.encoder_shape(study.checkpoint.config)
    plans: dict[tuple[int | None, int], Plan] = {(None, MOMENTS): nothing()}
    plans |= {(block, keep): merging(block, keep) for block, keep in PLANS}
    times, full, found = milliseconds(study, list(plans.values())), study.of(nothing()), []
    for ((block, keep), plan), ms in zip(plans.items(), times, strict=True):
        right = full if block is None else study.of(plan)
        row = {
            "block": block,
            "keep": keep,
            "questions": len(right),
            "retention": [round(value, 4) for value in intervals.retention(right, full, films)],
            "flops": round(encoder_ratio(plan.encoder, encoder), 3),
            "ms": round(ms, 1),
        }
        print(row, flush=True)
        found.append(row)
    weights = weights_hash(CHECKPOINT)[:16]
    lines = ",\n".join(json.dumps(row) for row in found)
    text = f'{{"weights": "{weights}", "rows": [\n{lines}\n]}}\n'
    (args.output / "clip-time.json").write_text(text, encoding="utf-8")
    (args.output / "clip-time.md").write_text(page(found, weights), encoding="utf-8")


if __name__ == "__main__":
    main()
