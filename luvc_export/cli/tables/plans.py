"""Tables for people."""

from __future__ import annotations

from typing import Any

from luvc_export.core.plan import MergePass, Plan
from luvc_export.core.plan.cost import Cost, Padded, Stage


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
    from rich.table import Table

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
    table = Table(
        title=f"{plan.schedule}: {merged}",
        caption=(
            f"{cost.text} text tokens; prefill FLOPs {cost.flops_ratio:.2f}x fewer,"
            f" KV cache {cost.kv_ratio:.2f}x smaller than uncompressed{encoder}"
        ),
    )
    stored = "KV MiB (16-bit)" if cost.caches is None else f"KV MiB ({cost.caches})"
    for name in ("layers", "visual tokens", "prefill GFLOPs", stored):
        table.add_column(name, justify="right")
    for stage in cost.stages:
        layers = f"{stage.first}" if stage.first == stage.last else f"{stage.first}-{stage.last}"
        table.add_row(
            layers,
            f"{stage.tokens}{_mean(plan, stage)}{', keys and values' * stage.kv_only}",
            f"{stage.flops / 1e9:.3g}",
            f"{stage.kv_bytes / 2**20:.3g}",
        )
    table.add_section()
    table.add_row("all", "", f"{cost.flops / 1e9:.3g}", f"{cost.kv_bytes / 2**20:.3g}")
    return table
