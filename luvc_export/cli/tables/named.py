"""Tables of plans: what one costs, stage by stage, and what those with names save here and kept where measured."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from luvc_export.cli.tables import console as consoles
from luvc_export.core.named_plans import CLIPS, PICTURES
from luvc_export.core.plan import MergePass, Plan, Sharing
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.plan.cost import Cost, Padded, Stage, cost
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import recipe_of, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError


def _removed(step: MergePass) -> str:
    """-5 rows -4 columns."""
    lost = " ".join(f"-{count} {name}" for name, count in (("rows", step.rows), ("columns", step.columns)) if count)
    return f"{lost} a window of {step.window}x{step.window}" if step.window else lost


def padded_line(plan: Plan, padded: Padded, aspect: str) -> str:
    """What the plan's budgets get of a padded picture."""
    whole = plan.whole_span
    line = (
        f"a picture of {aspect}, padded: {padded.units} of {whole} units show it, {padded.tokens} visual tokens hold it"
    )
    most = max(padded.padding)
    if not most:
        return f"{line}; no budget is larger"
    return (
        f"{line}; budgets are up to {most} tokens larger and take padding, {padded.flops_share:.0%} of the LLM's"
        " prefill: an --image-size of its shape, or --fit crop or stretch, wastes none"
    )


def _mean(plan: Plan, stage: Stage) -> str:
    """How many of a stage's rows are aggregates."""
    rows = stage.tokens // plan.keep[stage.first] if stage.first in plan.aggregated_layers else 0
    return f", {rows} the mean of what was dropped" * bool(rows)


def cost_table(plan: Plan, cost: Cost) -> Any:
    """A rich table of the plan's stages."""
    rows, columns = plan.grid
    merged = f"{rows}x{columns} = {plan.units} units"
    if plan.encoder.merges:
        after = ", ".join(f"block {m.block}: {_removed(m)}" for m in plan.encoder.merges)
        merged += f", merged to {plan.vision_tokens} ({after})"
    if plan.encoder.prune is not None:
        gone = plan.encoder.prune
        seen = f", the others seen for {gone.stabilise} more" if gone.stabilise else ""
        back = "all come back" if gone.restore == "all" else "none come back"
        merged += f"; {plan.encoder.last_units} go on after block {gone.block}{seen}, {back}"
    if plan.encoder.takes_units:
        merged += f", {plan.encoder.computed_units} of them computed, which the host names"
    if plan.sharing.shared:
        which = " ({}x{} tiles)".format(*plan.sharing.cut) if plan.sharing.kind == "tiles" else ""
        merged += f"; {plan.sharing.images} images{which} share a budget"
    merged += f", divided by quota {plan.sharing.quota}" * (plan.sharing.quota != "none")
    encoder = f"; encoder FLOPs {cost.encoder_ratio:.2f}x fewer" if cost.encoder_ratio is not None else ""
    caption = (
        f"{cost.text} text tokens; prefill FLOPs {cost.flops_ratio:.2f}x fewer,"
        f" KV cache {cost.kv_ratio:.2f}x smaller than uncompressed{encoder}"
    )
    stored = "KV MiB (16-bit)" if cost.caches is None else f"KV MiB ({cost.caches})"
    head = ("layers", "visual tokens", "prefill GFLOPs", stored)
    table = consoles.table((), *head, left=0, title=f"{plan.schedule}: {merged}", caption=caption)
    turns = f", 1 in {plan.llm.turns} by turns" if plan.llm.turns else ", keys and values"
    worked = f", {plan.llm.sampled} worked on" if plan.llm.sampled else turns
    for stage in cost.stages:
        layers = f"{stage.first}" if stage.first == stage.last else f"{stage.first}-{stage.last}"
        table.add_row(
            layers,
            f"{stage.tokens}{_mean(plan, stage)}{worked * stage.kv_only}",
            f"{stage.flops / 1e9:.3g}",
            f"{stage.kv_bytes / 2**20:.3g}",
        )
    table.add_section()
    table.add_row("all", "", f"{cost.flops / 1e9:.3g}", f"{cost.kv_bytes / 2**20:.3g}")
    return table


#: Models, grounds and titles of a table.
Columns = tuple[tuple[str, str, str], ...]
HEAD = ("plan", "LLM FLOPs", "encoder FLOPs", "first token")
CAPTION = (
    "fewer FLOPs of this model at {text} text tokens; how much sooner the first token came with {timed}; then the share"
    " of right answers kept, measured on {model}: neither on your model (docs/plans.md)"
)


def kept(name: str, columns: Columns) -> list[str]:
    """What a plan kept on every ground; empty where it was not measured."""
    rows = plan_figures.of(name)
    keys = [(model, ground) for model, ground, _ in columns]
    return [f"{rows[key].retention[0]:.3f}" if key in rows else "" for key in keys]


def sooner(name: str) -> str:
    """How much sooner than uncompressed a plan's first token came; empty where it was not timed."""
    factor = plan_figures.sooner(name)
    return "" if factor is None else f"{factor:.2f}x"


def named_rows(
    names: Collection[str],
    grid: tuple[int, int],
    llm: DecoderShape,
    encoder: EncoderShape,
    text: int,
    sharing: Sharing,
    columns: Columns,
) -> Iterator[list[str]]:
    """One row a plan of ``names``, for a model of these shapes and images of ``grid`` units.

    Such a model may not take every plan: a convolutional encoder has no units that could leave.
    """
    for name in names:
        request = PlanRequest(LlmRequest(plan_figures.recipe(name)), sharing=sharing)
        try:
            costs = cost(solve(request, grid, llm, encoder), llm, text, encoder=encoder)
            saved = [f"{costs.flops_ratio:.2f}x", f"{costs.encoder_ratio:.2f}x"]
        except PlanError:
            saved = ["refused", ""]
        yield [name, *saved, sooner(name), *kept(name, columns)]


def named_table(
    grid: tuple[int, int],
    llm: DecoderShape,
    encoder: EncoderShape,
    text: int,
    chosen: str | None = None,
    images: int | None = None,
) -> Any:
    """A rich table of the named plans for pictures, or for clips of ``images`` images; ``chosen`` stands out."""
    from rich.box import SIMPLE_HEAD

    pictures = [*PICTURES, *plan_figures.INT8]
    names, columns = (pictures, plan_figures.COLUMNS) if images is None else (CLIPS, plan_figures.FILMS)
    caption = CAPTION.format(text=text, timed=plan_figures.timed_at(), model=columns[0][0])
    titles = (*HEAD, *(title for _, _, title in columns))
    settings = {"title": "plans with names", "caption": caption, "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    table = consoles.table((), *titles, left=1, **settings)  # 80 columns hold it
    table.columns[0].no_wrap = True
    for row in named_rows(names, grid, llm, encoder, text, Sharing(images or 1), columns):
        table.add_row(*row, style="bold" if row[0] == chosen else None)
    return table


def bundle_table(plans: Mapping[str, Plan], llm: DecoderShape, precisions: Mapping[str, str] | None = None) -> Any:
    """A rich table of what a bundle's plans kept where they were measured; None where none of them has a name."""
    recipes = {name: recipe_of(plan, llm) for name, plan in plans.items()}
    rows = {name: plan_figures.measured_as(named, (precisions or {}).get(name)) for name, named in recipes.items()}
    known = {name: row for name, row in rows.items() if row is not None}
    films = plan_figures.FILMS if any(row in CLIPS for row in known.values()) else ()
    pictures = plan_figures.COLUMNS if any(row not in CLIPS for row in known.values()) else ()
    models = " and ".join(sorted({model for model, _, _ in (*pictures, *films)}))
    caption = (
        f"how much sooner the first token came with {plan_figures.timed_at()}; then the share of right answers kept,"
        f" measured on {models}: neither on this model (docs/plans.md)"
    )
    head = ("plan", "recipe", "first token", *(title for _, _, title in (*pictures, *films)))
    lines = ((name, row, sooner(row), *kept(row, (*pictures, *films))) for name, row in known.items())
    return consoles.table(lines, *head, left=2, title="plans with names", caption=caption) if known else None
