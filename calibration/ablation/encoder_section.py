"""A cheaper encoder against down-sampling: answers at equal encoder time and at equal time to first token.

Each method is a curve over the shares it was measured at, from the uncompressed model on. Where it passes a time is
read off between its two neighbours, and so are the ends of its interval; a method that is nowhere so fast is not there.
The LLM of these variants prunes nothing: all is the encoder's doing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from luvc_export.calibration.ablation.study import Row, Study
from luvc_export.calibration.ablation.variants import Shapes, Variant, downsampled, encoded, one_shot
from luvc_export.calibration.intervals import Interval
from luvc_export.core.files import pages
from luvc_export.core.plan import EncoderPlan, EncoderPrune
from luvc_export.core.plan.merging import MergePass, earliest, third
from luvc_export.core.planning import place_merges
from luvc_export.export.compression import scores

By = Literal["vision", "ttft"]
#: Uncompressed time over the times that methods are compared at.
SPEEDUPS = (1.15, 1.3, 1.5, 1.75)
#: A method whose shares are compared: its name without the share, and where it stands.
_SHARE = re.compile(r", (\d+ of \d+|[\d.]+)")


def measure(study: Study, split: str) -> list[Row]:
    """Rows, answers and times, of the uncompressed model and of every way to a cheaper encoder."""
    some = [Variant("uncompressed", (study.shapes.none(),)), *cheaper_encoders(study.shapes)]
    return study.timed(study.rows("a cheaper encoder", some, split), some)


def cheaper_encoders(shapes: Shapes) -> list[Variant]:
    """Prune and restore, merges in windows and along axes, units chosen before the patch merger, smaller pictures."""
    blocks, window = shapes.encoder.blocks, shapes.encoder.window
    early, later = earliest(blocks), third(blocks)
    variants = [
        *_pruned(shapes, "restore, {:g}", (0.35, 0.4, 0.5, 0.75, 0.8), later),
        *_pruned(shapes, "restore, {:g}", (0.5, 0.75, 0.8), early),
        *_pruned(shapes, "restore, {:g}, residual", (0.64, 0.8), 0, score="residual"),
        *_pruned(shapes, "restore, {:g}, residual", (0.6, 0.8), early, score="residual"),
        *_pruned(shapes, "restore, {:g}, seen for a quarter", (0.4,), later, stabilise=blocks // 4),
        *_pruned(shapes, "restore, {:g}, residual", (0.5,), later, score="residual"),
        *_pruned(shapes, "restore, {:g}, change", (0.5,), later, score="change"),
        *(_pruned(shapes, "restore, {:g}, each window", (0.5, 0.8), later, window=window) if window else ()),
    ]
    variants += [
        _merged(shapes, "OIM in windows, 12 of 16", (MergePass(early, 0, 1, 4),)),
        _merged(shapes, "OIM in windows, 9 of 16", (MergePass(early, 1, 1, 4),)),
        _merged(shapes, "OIM gradual, 0.75", place_merges(shapes.grid, 0.75, shapes.encoder, schedule="gradual")),
    ]
    in_llm = one_shot(shapes, round(0.5 * shapes.units)).changed(method=scores.method("norm"))
    variants += [
        *_pruned(shapes, "before the merger, {:g}, norm", (0.5,), blocks - 1, restore="none"),
        Variant("after the merger, 0.5, norm", (in_llm,), "in the LLM"),
    ]
    sizes = (downsampled(shapes, share * shapes.units, f"smaller picture, {share:g}") for share in (0.75, 0.5))
    return [*variants, *sizes]


def _pruned(shapes: Shapes, name: str, keeps: Sequence[float], block: int, **how: Any) -> list[Variant]:
    plans = (EncoderPlan(shapes.grid, prune=EncoderPrune(block=block, keep=keep, **how)) for keep in keeps)
    rows = zip(keeps, plans, strict=True)
    return [Variant(name.format(k), (encoded(shapes, plan, "encoder"),), f"after block {block}") for k, plan in rows]


def _merged(shapes: Shapes, name: str, merges: tuple[MergePass, ...]) -> Variant:
    plan = encoded(shapes, EncoderPlan(shapes.grid, merges), "encoder")
    return Variant(name, (plan,), "after block " + ", ".join(str(step.block) for step in merges))


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each method by its name, the uncompressed one first in each."""
    none, *others = rows
    by_method: dict[str, list[Row]] = {}
    for row in others:
        where = "" if row.name.startswith("smaller") else f", {row.remark}"
        by_method.setdefault(_SHARE.sub("", row.name) + where, [none]).append(row)
    return by_method


def at_time(curve: Sequence[Row], by: By, wanted: float) -> Interval | None:
    """Retention where a curve takes ``wanted`` ms; None where it does not reach that."""
    points = sorted((getattr(row.times, by), row.retention) for row in curve)
    times = [time for time, _ in points]
    if not times[0] <= wanted <= times[-1]:
        return None
    ends = zip(*(retention for _, retention in points), strict=True)
    return Interval(*(float(np.interp(wanted, times, values)) for values in ends))


def table(rows: Sequence[Row], by: By) -> str:
    """Markdown: a row a method, a column a speed-up, the methods that keep most at the first one first."""
    whole = getattr(rows[0].times, by)
    cells = {name: [at_time(curve, by, whole / s) for s in SPEEDUPS] for name, curve in curves(rows).items()}
    reached = {name: row for name, row in cells.items() if any(row)}
    order = sorted(
        reached, key=lambda name: [-1.0 if cell is None else cell.value for cell in cells[name]], reverse=True
    )
    head = ("method", *(f"{whole / s:.1f} ms ({s:g}x)" for s in SPEEDUPS))
    return pages.table(head, ([name, *map(_cell, cells[name])] for name in order))


def lines(results: dict[str, Any], level: str = "##") -> list[str]:
    """The section's Markdown, from ``results["cheaper"]``; nothing where it was not measured."""
    rows = results.get("cheaper")
    if not rows:
        return []
    cells = []
    for row in rows:
        where = "before the processor" if row.name.startswith("smaller") else row.remark
        cells.append((row.name, where, _cell(row.retention), f"{row.times.vision:.1f}", f"{row.times.ttft:.1f}"))
    return [
        f"{level} A cheaper encoder",
        "",
        f"Nothing is pruned in the LLM, unless the row says so; {rows[0].questions} questions.",
        "",
        pages.table(("variant", "where", "retention", "encoder ms", "first token ms"), cells),
        f"{level}# At equal encoder time",
        "",
        table(rows, "vision"),
        f"{level}# At equal time to first token",
        "",
        table(rows, "ttft"),
    ]


def _cell(value: Interval | None) -> str:
    return "not reached" if value is None else value.text(3)
