"""Today's methods on the three grounds: `python -m glyph_deep.studies.methods.compare -o ../docs/results`.

Per ground (plain, textured, pages): every score and the merge, evenly and staged, at 50, 25 and 10 % of the visual
tokens; merging in the encoder (OIM) early, spread and late; down-sampling at equal time to first token. The settings
of the spectrum are searched on the search split. A killed run goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from glyph_deep.data.cases import SIZES, cases
from glyph_deep.studies.measured import parser_of, read, write
from luvc_export.calibration import intervals
from luvc_export.calibration.ablation import study as studies
from luvc_export.calibration.ablation import variants
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.named_plans import SOLVED_AS
from luvc_export.core.plan import Plan
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.compression import scores

from .compare_page import page

SHARES = (0.5, 0.25, 0.1)
STAGES = (4.0, 2.0, 1.0)  # of the tokens in the thirds of the layers after the first, where all are
SIZES_DOWN = (0.7, 0.5, 0.35, 0.2)  # shares of the units of a smaller picture
RECORDS = 1


@dataclass(frozen=True)
class Counts:
    """Questions reported, searched and in the sections on the encoder and on smaller pictures."""

    report: int
    search: int
    side: int


def even(shapes: Shapes, share: float) -> Plan:
    """Return a plan that keeps `share` of the tokens before the first layer and loses none after."""
    return variants.one_shot(shapes, round(share * shapes.units))


def staged(shapes: Shapes, share: float) -> Plan:
    """Return a plan with all tokens in layer 0 and `share` of them on average after it, 4 : 2 : 1 by thirds."""
    rest = shapes.llm.layers - 1
    weights = np.array([STAGES[3 * i // rest] for i in range(rest)])
    keep = np.minimum(1.0, share * weights / weights.mean())
    for _ in range(20):  # what does not fit into full layers goes to the others
        open_ = keep < 1
        if not open_.any() or np.isclose(keep.mean(), share):
            break
        keep[open_] *= (share * rest - (~open_).sum()) / keep[open_].sum()
        keep = np.minimum(1.0, keep)
    return shapes.plan((shapes.units, *(round(float(k) * shapes.units) for k in keep)), "staged", "full")


SCHEDULES = {"even": even, "staged": staged}


def study_of(ground: str, folder: Path, checkpoint: Path, counts: Counts) -> studies.Study:
    """Return the study of a ground, its measurements kept beside the page."""
    opened = open_checkpoint(str(checkpoint))
    model = load_model(opened)
    reported = list(cases(ground, counts.report, 0))
    engines = {
        "report": PlanEvaluator(opened, model, reported, True),
        "side": PlanEvaluator(opened, model, reported[: counts.side], True),
        "search": PlanEvaluator(opened, model, list(cases(f"search-{ground}", counts.search, 0)), True),
    }
    unit = opened.family.unit_pixels(opened.config)
    height, width = SIZES[ground]
    shapes = Shapes(
        (height // unit, width // unit),
        opened.family.decoder_shape(opened.config),
        opened.family.encoder_shape(opened.config),
    )
    about = {"ground": ground, "weights": weights_hash(checkpoint), "records": RECORDS}
    text = int(np.median([len(a.prompt) - len(a.pictures) for a in engines["report"].asked(shapes.none())]))
    store = Store(folder / f"glyph-deep-{ground}-measurements.json", about)
    return studies.Study(engines, shapes, store, text, lambda stage, done: say(f"{ground}: {stage}", done))


def say(stage: str, done: float) -> None:
    """Print progress on one line."""
    print(f"\r{stage} {100 * done:3.0f} %  ", end="\n" if done >= 1 else "", file=sys.stderr, flush=True)


def measure(study: studies.Study) -> dict[str, Any]:
    """Return every section of one ground."""
    shapes = study.shapes
    quarter = even(shapes, 0.25)
    some = list(variants.readings(quarter))
    searched = study.rows("settings, even at 25 %", some, "search")
    best = max(zip(searched, some, strict=True), key=lambda pair: pair[0].accuracy.value)[1]
    tuned = scores.described(best.plans[0])
    asked = PlanRequest(LlmRequest(SOLVED_AS))  # the recipe that ranks by a filter
    chosen = scores.described(solve(asked, shapes.grid, shapes.llm, shapes.encoder))
    figures: dict[str, Any] = {
        "grid": shapes.grid,
        "text": study.text,
        "none": study.rows("uncompressed", [Variant("uncompressed", (shapes.none(),))])[0],
        "searched": sorted(searched, key=lambda row: -row.accuracy.value)[:5],
        "settings": variants.filter_name(tuned),
        "default": variants.filter_name(chosen),
    }
    for name, make in SCHEDULES.items():
        for share in SHARES:
            plan = make(shapes, share)
            rows = scores_of(study, plan, tuned, chosen, f"{name}, {share:.0%}")
            figures[f"{name} {share:g}"] = {"rows": rows, "apart": apart(study, rows, plan, tuned, chosen)}
    figures["encoder"] = {f"{share:g}": merges(study, share) for share in (0.75, 0.5)}
    figures["time"] = times(study, tuned)
    return figures


def compared(plan: Plan, tuned: Plan, chosen: Plan) -> list[Variant]:
    """Return every method at the budgets of `plan`, the default's score and settings among them."""
    return [
        Variant("SPU, the default's settings", (plan.changed(**variants.filter_of(chosen)),), chosen.llm.method.name),
        *variants.methods(plan, tuned),
    ]


def scores_of(study: studies.Study, plan: Plan, tuned: Plan, chosen: Plan, stage: str) -> list[studies.Row]:
    """Return the rows of every method at the budgets of `plan`."""
    return study.rows(stage, compared(plan, tuned, chosen))


def apart(study: studies.Study, rows: Sequence[studies.Row], plan: Plan, tuned: Plan, chosen: Plan) -> dict[str, Any]:
    """Return the best and the median method, and the paired difference of their answers with its interval."""
    by_name = {v.name: v for v in compared(plan, tuned, chosen)}
    best = max(rows, key=lambda row: row.accuracy.value)
    middle = next(r for r in rows if r.accuracy.value == median_low([row.accuracy.value for row in rows]))
    right = [np.mean([study.right("report", p) for p in by_name[row.name].plans], axis=0) for row in (best, middle)]
    pictures = [case.picture for case in study.engines["report"].cases]
    difference = intervals.difference(right[0], right[1], pictures)
    return {"best": best.name, "median": middle.name, "difference": difference,
            "intervals_apart": bool(best.accuracy.low > middle.accuracy.high)}  # fmt: skip


def merges(study: studies.Study, share: float) -> list[studies.Row]:
    """Return OIM late, spread and early at a share of the units, with random tokens and a smaller picture."""
    wanted = ("OIM, mean", "OIM, spread", "OIM, early", "random", "downsampling")
    some = [v for v in variants.encoder_merges(study.shapes, share) if v.name in wanted]
    return study.rows(f"encoder, {share:.0%}", some, "side")


def times(study: studies.Study, tuned: Plan) -> dict[str, Any]:
    """Return accuracy and time of SPU (even, settings searched) and of smaller pictures, measured in turns."""
    shapes = study.shapes
    chosen = variants.filter_of(tuned)
    pruned = [Variant(f"even, {s:.0%}", (even(shapes, s).changed(**chosen),)) for s in SHARES]
    small = dict.fromkeys(variants.smaller(shapes, s * shapes.units) for s in SIZES_DOWN)
    down = [Variant("uncompressed", (shapes.none(),))]
    down += [Variant("downsampling", (p,), f"{p.grid[0]}x{p.grid[1]} units") for p in small]
    rows = study.timed(study.rows("first-token times", [*pruned, *down], "side"), [*pruned, *down])
    return {"pruned": rows[: len(pruned)], "down": rows[len(pruned) :]}


def main() -> None:
    """Read the command line, measure, write the page and its data."""
    parser = parser_of(__doc__, 420, "questions reported a ground")
    parser.add_argument("--search", type=int, default=140, help="questions that settings are searched on")
    parser.add_argument("--side", type=int, default=280, help="questions for the encoder and smaller pictures")
    args = read(parser)
    counts = Counts(args.count, args.search, args.side)
    figures = {g: measure(study_of(g, args.output, args.checkpoint, counts)) for g in args.grounds}
    write(
        "glyph-deep", "methods.compare", parser, args, figures, page, counts=[counts.report, counts.search, counts.side]
    )


if __name__ == "__main__":
    main()
