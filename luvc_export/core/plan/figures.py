"""What the named plans kept, saved and took where they were measured, as ``named_plans.json`` holds it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from luvc_export.core.named_plans import CLIPS, FIGURES, NAMED, QUANTISED
from luvc_export.core.plan import Plan

#: Models and grounds in the order of tables, as (model, ground, title).
COLUMNS = (
    ("glyph_deep", "plain", "digits"),
    ("glyph_deep", "textured", "busy"),
    ("glyph_deep", "pages", "pages"),
    ("glyph_deep", "fonts", "other fonts"),
    ("glyph_deep", "photographs", "photos"),
)
#: Of the model whose LLM does the seeing; it answers plain digits alone (docs/results/glyph-shallow.md).
SHALLOW = (("glyph_shallow", "plain", "digits"),)
#: Of the bundled model, which never learned pages.
BUNDLED = (
    ("bundled", "heldout", "its own"),
    ("bundled", "harder", "harder fonts"),
    ("bundled", "photographs", "photographs"),
)
#: Of the model whose language model its authors pretrained (examples/pretrained).
PRETRAINED = (
    ("pretrained", "plain", "digits"),
    ("pretrained", "textured", "busy"),
    ("pretrained", "photographs", "photographs"),
)
#: Plans in INT8 (`glyph_deep.studies.precision.fewer_bits`): recipe, and what ``Quantisation.measured`` says.
INT8 = {"safe int8": ("safe", "int8"), "lean int8": ("lean", "int8")}
INT8 |= {name: (plan.recipe, name) for name, plan in QUANTISED.items()}
#: Of films (examples/glyph_clips).
FILMS = (("glyph_clips", "heldout", "films"),)


@dataclass(frozen=True)
class Figure:
    """One plan on one ground of one model.

    Attributes:
        retention: Right answers by those of the uncompressed model on the same questions, and its 95 % interval.
        flops: The uncompressed model's LLM prefill FLOPs by this plan's, 64 text tokens counted.
        encoder_flops: The same of the encoder's blocks.
    """

    plan: str
    key: str
    model: str
    ground: str
    questions: int
    accuracy: tuple[float, float, float]
    retention: tuple[float, float, float]
    flops: float
    encoder_flops: float


@dataclass(frozen=True)
class FirstToken:
    """Time to a first token of one plan, or of another product with all tokens, on one machine (``machine``).

    Attributes:
        plan: Name of the plan; of another product, its own.
        key: Of the recipe that was timed; None for another product.
        seconds: Median, and the shortest and longest run.
        runs: How many.
        beside: Seconds of ``none`` beside it, where both were timed in another run than the rest.
    """

    plan: str
    key: str | None
    seconds: tuple[float, float, float]
    runs: int
    beside: float | None = None


@cache
def _record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return record


@cache
def figures() -> tuple[Figure, ...]:
    """Every figure, of the recipes as they were when they were measured."""
    rows = _record()["rows"]
    return tuple(
        Figure(**{**row, "accuracy": tuple(row["accuracy"]), "retention": tuple(row["retention"])}) for row in rows
    )


def recipe(plan: str) -> str:
    """Name of the recipe of a plan that may be of ``INT8``."""
    return INT8.get(plan, (plan, ""))[0]


def measured_as(named: str | None, precision: str | None) -> str | None:
    """The row that holds for a bundle's plan of recipe ``named``, quantised to ``precision``; None if none does."""
    return named if precision is None else next((row for row, one in INT8.items() if one == (named, precision)), None)


def of(plan: str, some: Iterable[Figure] | None = None) -> dict[tuple[str, str], Figure]:
    """Figures of a named plan, or of one of ``INT8``, by (model, ground): those of today's recipe alone."""
    name = recipe(plan)
    key = NAMED[name].key if name in NAMED else "none"
    rows = figures() if some is None else some
    return {(row.model, row.ground): row for row in rows if row.plan == plan and row.key == key}


def kept(plan: str) -> dict[str, float]:
    """Share of right answers that a named plan kept where it was measured (``columns``), by title of a ground."""
    rows = of(plan)
    return {title: rows[key, ground].retention[0] for key, ground, title in columns(plan) if (key, ground) in rows}


def columns(plan: str) -> tuple[tuple[str, str, str], ...]:
    """What a named plan is told by: films for those that are for clips, pictures for the others."""
    return FILMS if plan in CLIPS else COLUMNS


def first_tokens() -> dict[str, FirstToken]:
    """Times to the first token by plan or product: of plans, those of today's recipes alone."""
    rows = [FirstToken(**{**row, "seconds": tuple(row["seconds"])}) for row in _record()["first_token"]["rows"]]
    keys = {name: plan.key for name, plan in NAMED.items()} | {"none": "none"}
    return {row.plan: row for row in rows if row.key is None or keys.get(recipe(row.plan)) == row.key}


def timed_at() -> str:
    """What first tokens were timed with: the shapes, and the machine."""
    about = _record()["first_token"]["about"]
    return f"{about['shapes']} on {about['cpu']}"


def sooner(plan: str, other: str = "none") -> float | None:
    """Seconds of ``other`` by those of a plan to the first token; None where they were not timed in one run."""
    times = first_tokens()
    if plan not in times:
        return None
    first, than = times[plan], times[other].seconds[0]
    if first.beside is not None:
        return first.beside / first.seconds[0] if other == "none" else None
    return than / first.seconds[0]


def written(record: dict[str, Any]) -> str:
    """The file's text of ``record``: one row a line."""

    def rows(some: list[dict[str, Any]]) -> str:
        return "[\n" + ",\n".join(json.dumps(row) for row in some) + "\n]"

    timed = record["first_token"]
    first = f'{{"about": {json.dumps(timed["about"])}, "rows": {rows(timed["rows"])}}}'
    return f'{{"about": {json.dumps(record["about"])}, "rows": {rows(record["rows"])}, "first_token": {first}}}\n'


def merging_note(plan: Plan) -> str | None:
    """What whoever opens a plan that merges in the encoder should know; None for other plans."""
    pages = of("luvc").get(("glyph_deep", "pages"))
    if pages is None or not any(step.rows or step.columns for step in plan.encoder.merges):
        return None
    kept = f"{pages.retention[0]:.2f} of the answers on pages of text"
    return (
        f"this plan merges in the encoder: merging to three quarters kept {kept}, safe merges nothing (docs/plans.md)"
    )
