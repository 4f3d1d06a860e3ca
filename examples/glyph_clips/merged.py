"""What merging along time inside the encoder keeps of answers, and saves: `python -m glyph_clips.merged`.

Every token goes to the LLM, so what is lost is the encoder's. `--taught CHECKPOINT` adds what `python -m
glyph_clips.distil` wrote. Times are processor time of one thread of the torch encoder, plans in turns; `--times` takes
those alone again, on a quiet machine. Writes `docs/results/clip-time.json`, a record a line, and
`docs/results/clip-time.md`, with the times of a large encoder that `benchmarks/measure/times/clip_encoder.py` took,
and those of the exported graphs by `python -m glyph_clips.clock`; `--page` writes the page again.
Answers are kept beside them: a killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import Store, pack, unpack, weights_hash
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.export.checkpoint import open_checkpoint

from . import clock
from .cases import CHECKPOINT, ClipCase, cases
from .clock import merging
from .films import MOMENTS
from .study import RESULTS, Study, nothing

#: Block after which units merge, of 0 to 3, and how many of a place's 8 are left.
PLANS = ((0, 6), (0, 4), (0, 3), (1, 6), (1, 4), (1, 3))
#: The one that `glyph_clips.distil` teaches.
TAUGHT = (0, 3)
TURNS = 9
BAR, SOONER = 0.98, 1.8
#: How the taught encoder was made.
RECIPE = "python -m glyph_clips.distil --out runs/clips-distil --batch 8 --steps 1200 --rate 4e-4"
#: What came of a third of it, by the same questions.
SHORTER = "After 400 steps it kept 0.965 (0.942 to 0.989); it was taught longer because these questions said so."
LARGE = "clip-encoder.json"


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


def page(
    rows: Sequence[dict[str, Any]], weights: str, large: Sequence[dict[str, Any]], graphs: dict[str, Any] | None = None
) -> str:
    """Return the document; `large` are the times of a large encoder, `graphs` what `clock` wrote, where they are."""
    timed = all(row["ms"] is not None for row in rows)
    lines = [
        "# Merging along time inside the encoder",
        "",
        "Written by `python -m glyph_clips.merged` in `examples`. Do not edit: run it again.",
        "",
        f"`glyph_clips` (examples/glyph_clips/MODEL_CARD.md), checkpoint sha256 `{weights}`, split `heldout`,"
        f" {rows[0]['questions']} questions, three about each film of {MOMENTS} moments; intervals are 95 %, clustered"
        " by film, retention is against the checkpoint as shipped that merges nothing. The LLM keeps every token. The"
        " encoder has 4 blocks, 0 to 3; FLOPs are theirs."
        + (" Times are processor milliseconds of one thread of the whole torch encoder for one film." if timed else ""),
        "",
        "| encoder | after block | moments left | retention | encoder FLOPs |" + " ms | sooner |" * timed,
        "|---|---:|---:|---:|---:|" + "---:|---:|" * timed,
    ]
    for row in rows:
        kept = "{:.3f} ({:.3f} to {:.3f})".format(*row["retention"])
        where = "none" if row["block"] is None else row["block"]
        how = "taught" if row["taught"] else "as shipped"
        line = f"| {how} | {where} | {row['keep']} | {kept} | {row['flops']:.2f}x |"
        lines.append(line + (f" {row['ms']:.0f} | {rows[0]['ms'] / row['ms']:.2f}x |" if timed else ""))
    lines += ["", verdict(rows), ""]
    if not any(row["taught"] for row in rows):
        lines.append(f"Not run: an encoder that was taught to merge (`{RECIPE}`, then `--taught`).")
    else:
        lines += [
            f"The taught encoder is the shipped one after `{RECIPE}`: no labels and no questions, the target of every"
            " unit is what the shipped encoder says of the whole film (train split). One run of one seed, taught for"
            " that one plan; its weights are not in the repository. It takes the time of the shipped one's plan."
            f" {SHORTER}",
        ]
    lines += [
        "",
        "Four blocks are few: what merges after the first has seen one block, and saving much means merging there. The"
        " patch embedding and the patch merger see every moment, and are counted in the times alone.",
    ]
    return "\n".join([*lines, *clock.table(graphs or {}), *large_table(large), ""])


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Which rows save the FLOPs that are asked for, and whether they keep enough."""
    enough = [row for row in rows if row["flops"] >= SOONER]
    if not enough:
        return f"No row saves {SOONER}x of the encoder's FLOPs."
    kept = [
        f"{'taught' if row['taught'] else 'as shipped'} {row['retention'][0]:.3f},"
        f" {'met' if row['retention'][0] >= BAR else 'missed'}"
        for row in enough
    ]
    where = ", ".join(sorted({f"({row['block']}, {row['keep']})" for row in enough}))
    line = f"The bar is {BAR} at {SOONER} times fewer encoder FLOPs, by the value; {where}: {'; '.join(kept)}."
    if any(row.get("ms") is None for row in rows):
        return line
    sooner = max(rows[0]["ms"] / row["ms"] for row in enough)
    return f"{line} As time of the whole encoder it is {sooner:.2f}x: {'met' if sooner >= SOONER else 'missed'}."


def large_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Times of a large encoder, as lines."""
    if not rows:
        return []
    first = rows[0]
    lines = [
        "",
        "## As time, at a real encoder's shape",
        "",
        f"`{first['command']}`: {first['shape']}, random weights, {first['frames']} frames of {first['size']}, the"
        f" vision graph alone on {first['cpu']}; seconds, medians of {first['runs']} runs in turns, shortest and"
        " longest.",
        "",
        "| engine | after block | moments left | encoder FLOPs | s | sooner |",
        "|---|---:|---:|---:|---|---:|",
    ]
    whole = {row["engine"]: row["seconds"][0] for row in rows if row["block"] is None}
    for row in rows:
        taken, where = (
            "{:.2f} ({:.2f} to {:.2f})".format(*row["seconds"]),
            "none" if row["block"] is None else row["block"],
        )
        sooner = whole[row["engine"]] / row["seconds"][0]
        lines.append(f"| {row['engine']} | {where} | {row['keep']} | {row['flops']:.2f}x | {taken} | {sooner:.2f}x |")
    return lines


class Answers:
    """What a checkpoint answers under a plan, kept in a file."""

    def __init__(self, store: Store, folder: Path, asked: list[ClipCase]) -> None:
        self.store, self.weights = store, weights_hash(folder)
        self.study = Study(open_checkpoint(str(folder)), asked)

    def right(self, plan: Plan) -> np.ndarray:
        """Whether each case is answered right, bool [cases]."""
        count = len(self.study.asked)
        key = [self.weights, count, plan.to_json()]
        return np.array(unpack(self.store.of(key, lambda: pack(self.study.of(plan).tolist())), count))


def write(folder: Path, weights: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write figures and page."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    (folder / "clip-time.json").write_text(f'{{"weights": "{weights}", "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    (folder / "clip-time.md").write_text(page(rows, weights, *beside(folder)), encoding="utf-8")


def beside(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Times of the large encoder and of the exported graphs, as far as they are there."""
    large, graphs = (
        json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for file in (folder / LARGE, folder / clock.FILE)
    )
    return large.get("rows", []), graphs


def main() -> None:
    """Answer, time and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=600, help="three about each film")
    parser.add_argument("--taught", type=Path, help="checkpoint that `python -m glyph_clips.distil` wrote")
    parser.add_argument("--times", action="store_true", help="take times alone, for the rows that are there")
    parser.add_argument("--page", action="store_true", help="write the page of the figures that are there, no more")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the figures and the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights, rows = weights_hash(CHECKPOINT)[:16], list[dict[str, Any]]()
    plans: dict[tuple[int | None, int], Plan] = {(None, MOMENTS): nothing()}
    plans |= {(block, keep): merging(block, keep) for block, keep in PLANS}
    if args.page:
        write(args.output, weights, json.loads((args.output / "clip-time.json").read_text(encoding="utf-8"))["rows"])
        return
    if args.times:
        rows = json.loads((args.output / "clip-time.json").read_text(encoding="utf-8"))["rows"]
        study = Study(open_checkpoint(str(CHECKPOINT)), list(cases("heldout", 3)))
        times = dict(zip(plans, milliseconds(study, list(plans.values())), strict=True))
        write(args.output, weights, [row | {"ms": round(times[row["block"], row["keep"]], 1)} for row in rows])
        return
    asked = list(cases("heldout", args.questions))
    films = [case.picture for case in asked]
    store = Store(args.output / "clip-time-measurements.json", {})
    shipped = Answers(store, CHECKPOINT, asked)
    encoder = shipped.study.checkpoint.family.encoder_shape(shipped.study.checkpoint.config)
    some = [(shipped, place) for place in plans]
    if args.taught is not None:
        some.append((Answers(store, args.taught, asked), TAUGHT))
    full = shipped.right(nothing())
    for answers, (block, keep) in some:
        plan = plans[block, keep]
        right = answers.right(plan)
        row = {
            "taught": answers is not shipped,
            "block": block,
            "keep": keep,
            "questions": len(right),
            "retention": [round(value, 4) for value in intervals.retention(right, full, films)],
            "flops": round(encoder_ratio(plan.encoder, encoder), 3),
            "ms": None,
        }
        print(row, flush=True)
        rows.append(row)
        write(args.output, weights, rows)


if __name__ == "__main__":
    main()
