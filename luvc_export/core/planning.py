"""From a few user-level choices to a plan: image size, merges, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luvc_export.core.budgets import merge_removals, rectangles, schedule, solve_kv, solve_speedup
from luvc_export.core.plan import LastLayer, MergePass, Plan
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError

#: What the measurements in docs/results/ablation.md favour.
DEFAULT_SCHEDULE = "even"


@dataclass(frozen=True)
class PlanRequest:
    """What a user asks of a plan.

    Args:
        schedule: ``even``, ``thirds``, ``linear``, ``cosine``, ``none``, or a list of budgets, one per layer.
        merge_keep: Share of units that merging in the encoder keeps (1 merges nothing).
        merge_at: Encoder blocks to merge after; None spreads them over the later half of the full-attention blocks.
        speedup: Solve for this factor on LLM prefill FLOPs instead of taking ``schedule``.
        kv_mib: Solve for a KV cache of this many MiB instead.
        text: Text tokens that ``speedup`` and ``kv_mib`` count.
        joint_images: Images that share one budget, see ``Plan``.
        kv_only: LLM layers that compute only keys and values for visual tokens, see ``Plan``; ``none`` has none.
        last_layer: None takes ``full`` for ``none`` and ``drop`` otherwise.
    """

    schedule: str | Sequence[int] = DEFAULT_SCHEDULE
    merge_keep: float = 0.75
    merge_at: tuple[int, ...] | None = None
    speedup: float | None = None
    kv_mib: float | None = None
    text: int = 64
    last_layer: LastLayer | None = None
    joint_images: int = 1
    kv_only: tuple[int, ...] = ()


def solve(
    request: PlanRequest, grid: tuple[int, int], llm: DecoderShape, encoder: EncoderShape, **switches: Any
) -> Plan:
    """The plan of ``request`` for a model of these shapes and an image of ``grid`` units.

    Raises:
        PlanError: The choices contradict each other, cannot be met, or do not fit the model.
    """
    name = request.schedule if isinstance(request.schedule, str) else "list"
    if request.speedup is not None and request.kv_mib is not None:
        raise PlanError("--speedup and --kv-mib both choose the budgets", fix="give one of them")
    goals = {"--speedup": request.speedup, "--kv-mib": request.kv_mib}
    for goal, value in goals.items():
        if value is not None and request.schedule != DEFAULT_SCHEDULE:
            given = request.schedule if isinstance(request.schedule, str) else "a list of budgets"
            raise PlanError(
                f"{goal} solves the budgets itself", where="--plan", got=given, fix=f"leave out --plan, or {goal}"
            )
    switches["joint_images"] = request.joint_images
    if name == "none":
        keep = (grid[0] * grid[1] * request.joint_images,) * llm.layers
        last = request.last_layer or "full"
        return Plan(grid, keep, last_layer=last, schedule="none", **switches)
    merges = place_merges(grid, request.merge_keep, encoder, request.merge_at)
    rows, columns = grid[0] - sum(m.rows for m in merges), grid[1] - sum(m.columns for m in merges)
    tokens, full = rows * columns * request.joint_images, grid[0] * grid[1] * request.joint_images
    if request.speedup is not None:
        name = f"speedup {request.speedup:g}"
        keep = solve_speedup(llm, full, tokens, request.text, request.speedup, request.kv_only)
    elif request.kv_mib is not None:
        name, keep = f"kv-mib {request.kv_mib:g}", solve_kv(llm, tokens, request.text, request.kv_mib)
    elif isinstance(request.schedule, str):
        keep = schedule(request.schedule, llm.layers, tokens)
    else:
        keep = tuple(request.schedule)
    last = request.last_layer or "drop"
    if last != "drop" and name != "list" and len(keep) > 1:
        keep = (*keep[:-1], keep[-2])
    if switches.get("reducer") == "merge":
        keep = rectangles((rows, columns), keep)
    plan = Plan(grid, keep, merges, last_layer=last, schedule=name, kv_only=request.kv_only, **switches)
    check_model(plan, llm, encoder)
    return plan


def place_merges(
    grid: tuple[int, int], keep: float, encoder: EncoderShape, blocks: tuple[int, ...] | None = None
) -> tuple[MergePass, ...]:
    """Passes that leave about ``keep`` of the units, spread over ``blocks``, later ones taking the remainder.

    The default blocks are the full-attention ones in the later half of the encoder: earlier merging costs more
    accuracy (reconstruction; measured on the bundled model).
    """
    where = blocks or tuple(b for b in encoder.full_attention if 2 * (b + 1) >= encoder.blocks)
    rows, columns = grid
    left = list(merge_removals(grid, keep))
    passes = []
    for index, block in enumerate(where):
        stops = len(where) - index
        step = [min(size // 2, want // stops) for size, want in zip((rows, columns), left, strict=True)]
        if any(step):
            passes.append(MergePass(block, *step))
        rows, columns, left = rows - step[0], columns - step[1], [left[0] - step[0], left[1] - step[1]]
    while any(left):
        step = [min(rows // 2, left[0]), min(columns // 2, left[1])]
        passes.append(MergePass(where[-1], *step))
        rows, columns, left = rows - step[0], columns - step[1], [left[0] - step[0], left[1] - step[1]]
    return tuple(passes)


def check_model(plan: Plan, llm: DecoderShape, encoder: EncoderShape) -> None:
    """Check a plan against a model.

    Raises:
        PlanError: Another number of layers, or a merge after a block that does not see the whole image.
    """
    problems = []
    if plan.layers != llm.layers:
        problems.append(f"keep: got {plan.layers} budgets, the model has {llm.layers} layers")
    for index, step in enumerate(plan.merges):
        if step.block not in encoder.full_attention:
            allowed = ", ".join(map(str, encoder.full_attention))
            problems.append(f"merges[{index}]: after block {step.block}; full-attention blocks are {allowed}")
    if problems:
        raise PlanError("the plan does not fit the model:\n" + "\n".join(f"  - {problem}" for problem in problems))
