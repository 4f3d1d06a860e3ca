"""The named plans as one table: what each saves here, and what it kept where it was measured.

``python -m luvc_export.cli.tables.named`` writes docs/plans.md in a checkout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from luvc_export.core.cost.report import cost
from luvc_export.core.named_plans import NAMED
from luvc_export.core.plan import Plan
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import recipe_of, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape

BEGIN, END = "<!-- plans -->", "<!-- end of plans -->"
HEAD = ("plan", "LLM FLOPs", "encoder FLOPs", "first token", *(title for _, _, title in plan_figures.COLUMNS))
CAPTION = (
    "fewer FLOPs of this model at {text} text tokens; how much sooner the first token came with {timed}; then the share"
    " of right answers kept, measured on glyph_deep: neither on your model (docs/plans.md)"
)


def kept(name: str) -> list[str]:
    """What a plan kept on every ground; empty where it was not measured."""
    rows = plan_figures.of(name)
    keys = [(model, ground) for model, ground, _ in plan_figures.COLUMNS]
    return [f"{rows[key].retention[0]:.3f}" if key in rows else "" for key in keys]


def sooner(name: str) -> str:
    """How much sooner than uncompressed a plan's first token came; empty where it was not timed."""
    factor = plan_figures.sooner(name)
    return "" if factor is None else f"{factor:.2f}x"


def named_rows(
    names: Collection[str], grid: tuple[int, int], llm: DecoderShape, encoder: EncoderShape, text: int
) -> Iterator[list[str]]:
    """One row a plan of ``names``, for a model of these shapes and an image of ``grid`` units."""
    for name in names:
        costs = cost(solve(PlanRequest(LlmRequest(name)), grid, llm, encoder), llm, text, encoder=encoder)
        yield [name, f"{costs.flops_ratio:.2f}x", f"{costs.encoder_ratio:.2f}x", sooner(name), *kept(name)]


def named_table(
    grid: tuple[int, int], llm: DecoderShape, encoder: EncoderShape, text: int, chosen: str | None = None
) -> Any:
    """A rich table of all named plans; ``chosen`` stands out."""
    from rich.table import Table

    table = Table(title="plans with names", caption=CAPTION.format(text=text, timed=plan_figures.timed_at()))
    for title in HEAD:
        table.add_column(title, justify="left" if title == "plan" else "right", no_wrap=title == "plan")
    for row in named_rows(NAMED, grid, llm, encoder, text):
        table.add_row(*row, style="bold" if row[0] == chosen else None)
    return table


def bundle_table(plans: Mapping[str, Plan], llm: DecoderShape) -> Any:
    """A rich table of what a bundle's plans kept where they were measured; None where none of them has a name."""
    from rich.table import Table

    recipes = {name: recipe_of(plan, llm) for name, plan in plans.items()}
    table = Table(
        title="plans with names",
        caption=f"how much sooner the first token came with {plan_figures.timed_at()}; then the share of right answers"
        " kept, measured on glyph_deep: neither on this model (docs/plans.md)",
    )
    for title in ("plan", "recipe", "first token", *(title for _, _, title in plan_figures.COLUMNS)):
        table.add_column(title, justify="left" if title in ("plan", "recipe") else "right")
    for name, recipe in recipes.items():
        if recipe is not None:
            table.add_row(name, recipe, sooner(recipe), *kept(recipe))
    return table if table.row_count else None


def first_token_lines() -> Iterator[str]:
    """The table of first tokens: each plan's seconds, and those of none and of every other product by them."""
    times = plan_figures.first_tokens()
    others = [name for name, one in times.items() if name == "none" or one.key is None]
    yield f"| plan | first token s | {' | '.join(f'{name} by it' for name in others)} |"
    yield "|---|---:|" + "---:|" * len(others)
    for name, one in times.items():
        ratios = [f"{times[other].seconds[0] / one.seconds[0]:.2f}x" for other in others]
        told = "{:.2f} ({:.2f} to {:.2f})".format(*one.seconds)
        yield f"| {name if one.key is None else f'`{name}`'} | {told} | {' | '.join(ratios)} |"


def page_tables() -> str:
    """The tables of docs/plans.md: what every plan is, and what it kept with 95 % intervals, clustered by picture."""
    lines = ["| plan | what it does | from |", "|---|---|---|"]
    lines += [f"| `{name}` | {plan.says} | {plan.source} |" for name, plan in NAMED.items()]
    lines += ["", *first_token_lines()]
    models = (
        ("glyph_deep", plan_figures.COLUMNS),
        ("glyph_shallow", plan_figures.SHALLOW),
        ("the bundled model", plan_figures.BUNDLED),
    )
    for title, columns in models:
        titles = [column[2] for column in columns]
        lines += ["", f"| plan on {title} | LLM FLOPs | encoder FLOPs | {' | '.join(titles)} |"]
        lines += ["|---|---:|---:|" + "---:|" * len(titles)]
        for name in NAMED:
            rows = plan_figures.of(name)
            some = [rows[(model, ground)] for model, ground, _ in columns]
            flops = " to ".join(f"{value:.2f}x" for value in sorted({row.flops for row in some}))
            encoder = " to ".join(f"{value:.2f}x" for value in sorted({row.encoder_flops for row in some}))
            intervals = ["{:.3f} ({:.3f} to {:.3f})".format(*row.retention) for row in some]
            lines.append(f"| `{name}` | {flops} | {encoder} | {' | '.join(intervals)} |")
    return "\n".join(lines) + "\n"


def write_page(page: Path) -> None:
    """Write the tables between the marks of docs/plans.md."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n{page_tables()}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(__file__).resolve().parents[3] / "docs" / "plans.md")
