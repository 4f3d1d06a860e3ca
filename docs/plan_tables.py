"""The tables of plans with names in docs/plans.md, written between their marks from the committed figures.

``python docs/plan_tables.py`` rewrites them; a test compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from luvc_export.cli.tables.named import Columns
from luvc_export.core.files import pages
from luvc_export.core.named_plans import CLIPS, PICTURES, QUANTISED, NamedPlan, QuantisedPlan
from luvc_export.core.plan import figures as plan_figures


def first_tokens() -> str:
    """The table of first tokens: each plan's seconds, and those of none and of every other product by them."""
    times = plan_figures.first_tokens()
    others = [name for name, one in times.items() if name == "none" or one.key is None]
    rows = []
    for name, one in times.items():
        ratios = ["" if (by := plan_figures.sooner(name, other)) is None else f"{by:.2f}x" for other in others]
        cell = "{:.2f} ({:.2f} to {:.2f})".format(*one.seconds)
        rows.append((name if one.key is None else f"`{name}`", cell, *ratios))
    return pages.table(("plan", "first token s", *(f"{name} by it" for name in others)), rows, left=1)


def page_tables() -> str:
    """The tables of docs/plans.md: what every plan is, and what it kept with 95 % intervals, clustered by picture."""
    parts = [_described({**PICTURES, **QUANTISED}), first_tokens()]
    for title, names, columns in (
        ("glyph_deep", [*PICTURES, *plan_figures.INT8], plan_figures.COLUMNS),
        ("glyph_shallow", PICTURES, plan_figures.SHALLOW),
        ("the bundled model", PICTURES, plan_figures.BUNDLED),
        ("pretrained", [*PICTURES, *plan_figures.INT8], plan_figures.PRETRAINED),
    ):
        parts.append(_measured(title, names, columns))
    return "\n".join(parts)


def clip_tables() -> str:
    """The same of clips; the plans for pictures stand there too, as what a clip gets of them."""
    return "\n".join((_described(CLIPS), _measured("glyph_clips", [*CLIPS, *PICTURES], plan_figures.FILMS)))


#: What docs/plans.md holds between its marks.
TABLES = {"plans": page_tables, "plans for clips": clip_tables}


def _described(plans: Mapping[str, NamedPlan | QuantisedPlan]) -> str:
    rows = ((f"`{name}`", plan.says, plan.source) for name, plan in plans.items())
    return pages.table(("plan", "what it does", "from"), rows)


def _measured(title: str, names: Collection[str], columns: Columns) -> str:
    lines = []
    for name in names:
        rows = plan_figures.of(name)
        some = [rows[(model, ground)] for model, ground, _ in columns if (model, ground) in rows]
        if not some:
            continue  # not measured there
        flops = " to ".join(f"{value:.2f}x" for value in sorted({row.flops for row in some}))
        encoder = " to ".join(f"{value:.2f}x" for value in sorted({row.encoder_flops for row in some}))
        seen = (rows.get((model, ground)) for model, ground, _ in columns)
        intervals = ["{:.3f} ({:.3f} to {:.3f})".format(*row.retention) if row else "" for row in seen]
        lines.append((f"`{name}`", flops, encoder, *intervals))
    head = (f"plan on {title}", "LLM FLOPs", "encoder FLOPs", *(column[2] for column in columns))
    return pages.table(head, lines, left=1)


def write_page(page: Path) -> None:
    """Write the tables between the marks of docs/plans.md."""
    text = page.read_text(encoding="utf-8")
    for name, tables in TABLES.items():
        text = pages.within(text, name, tables())
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(__file__).with_name("plans.md"))
