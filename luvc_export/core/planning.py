"""From a few user-level choices to a plan: image size, merges, schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luvc_export.core.budgets import merge_removals, rectangles, schedule, solve_kv, solve_speedup
from luvc_export.core.plan.encoder_prune import EncoderPrune, Restore
from luvc_export.core.plan.merging import EARLIEST, MergePass, at_depth, earliest, merged_grid, third, window_pass
from luvc_export.core.plan import LastLayer, Plan
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError, did_you_mean

#: What the measurements in docs/results/ablation.md favour.
DEFAULT_SCHEDULE = "even"
#: Share of units that merging keeps unless told.
MERGE_KEEP = 0.75
#: The quickest plan that kept 99 % of the answers on every ground of docs/results/encoder.md: so many of the units
#: go on after a fifth of the encoder's depth, and come back. The LLM keeps all; its last layer takes keys and values.
FAST = "fast"
FAST_KEEP = 0.8


@dataclass(frozen=True)
class EncoderPruneRequest:
    """Share of the units that encoder blocks after ``block`` compute; ``restore`` says which others the LLM sees.

    ``block`` None is where a third of the depth is done.
    """

    keep: float
    block: int | None = None
    restore: Restore = "all"


@dataclass(frozen=True)
class PlanRequest:
    """What a user asks of a plan.

    Args:
        schedule: ``even``, ``thirds``, ``linear``, ``cosine``, ``none``, ``fast``, or a list of budgets, one per layer.
        merge_keep: Share of units that merging in the encoder keeps (1 merges nothing); None is 0.75, or 1 where the
            encoder prunes.
        merge_at: Encoder blocks to merge after, in place of those of ``merge_schedule``.
        merge_schedule: Where the encoder merges, see ``MERGE_SCHEDULES``.
        encoder_prune: Units that leave the later blocks of the encoder.
        speedup: Solve for this factor on LLM prefill FLOPs instead of taking ``schedule``.
        kv_mib: Solve for a KV cache of this many MiB instead.
        text: Text tokens that ``speedup`` and ``kv_mib`` count.
        joint_images: Images that share one budget, see ``Plan``.
        kv_only: LLM layers that compute only keys and values for visual tokens, see ``Plan``; ``none`` has none.
        last_layer: None takes ``full`` for ``none`` and ``drop`` otherwise.
    """

    schedule: str | Sequence[int] = DEFAULT_SCHEDULE
    merge_keep: float | None = None
    merge_at: tuple[int, ...] | None = None
    speedup: float | None = None
    kv_mib: float | None = None
    text: int = 64
    last_layer: LastLayer | None = None
    joint_images: int = 1
    kv_only: tuple[int, ...] = ()
    merge_schedule: str = "late"
    encoder_prune: EncoderPruneRequest | None = None


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
        switches = {key: value for key, value in switches.items() if key not in ("aggregate", "quota")}
        return Plan(grid, keep, last_layer=last, schedule="none", **switches)
    wanted = request.encoder_prune
    if name == FAST and wanted is None:
        wanted = EncoderPruneRequest(FAST_KEEP, earliest(encoder.blocks))
    share = request.merge_keep
    if share is None:
        share = MERGE_KEEP if wanted is None else 1.0
    merges = place_merges(grid, share, encoder, request.merge_at, request.merge_schedule)
    if wanted is not None:
        switches["encoder_prune"] = place_prune(wanted, encoder)
    rows, columns = merged_grid(grid, merges)
    tokens = Plan(grid, (0,), merges, encoder_prune=switches.get("encoder_prune")).vision_tokens * request.joint_images
    full = grid[0] * grid[1] * request.joint_images
    if request.speedup is not None:
        name = f"speedup {request.speedup:g}"
        keep = solve_speedup(llm, full, tokens, request.text, request.speedup, request.kv_only)
    elif request.kv_mib is not None:
        name, keep = f"kv-mib {request.kv_mib:g}", solve_kv(llm, tokens, request.text, request.kv_mib)
    elif name == FAST:
        keep = (tokens,) * llm.layers
    elif isinstance(request.schedule, str):
        keep = schedule(request.schedule, llm.layers, tokens)
    else:
        keep = tuple(request.schedule)
    last = request.last_layer or ("kv_only" if name == FAST else "drop")
    if last != "drop" and name != "list" and len(keep) > 1:
        keep = (*keep[:-1], keep[-2])
    if switches.get("reducer") == "merge":
        keep = rectangles((rows, columns), keep)
    plan = Plan(grid, keep, merges, last_layer=last, schedule=name, kv_only=request.kv_only, **switches)
    check_model(plan, llm, encoder)
    return plan


def place_prune(wanted: EncoderPruneRequest, encoder: EncoderShape) -> EncoderPrune:
    """The prune asked for; where a third of the depth is done unless it says where (docs/results/encoder.md)."""
    block = third(encoder.blocks) if wanted.block is None else wanted.block
    return EncoderPrune(block, wanted.keep, restore=wanted.restore)


def _late(encoder: EncoderShape) -> tuple[int, ...]:
    """The full-attention blocks of the later half: costs least in accuracy, saves the LLM's time alone."""
    return tuple(b for b in encoder.full_attention if 2 * (b + 1) >= encoder.blocks)


def _early(encoder: EncoderShape) -> tuple[int, ...]:
    """One block, where a fifth of the depth is done."""
    return (earliest(encoder.blocks),)


def _gradual(encoder: EncoderShape) -> tuple[int, ...]:
    """Where one, two and three fifths of the depth are done."""
    return tuple(dict.fromkeys(at_depth(share, encoder.blocks) for share in (EARLIEST, 0.4, 0.6)))


#: Blocks to merge after, by name; ``windows`` merges inside windows where ``early`` does along whole axes.
MERGE_SCHEDULES: dict[str, Callable[[EncoderShape], tuple[int, ...]]] = {
    "late": _late,
    "gradual": _gradual,
    "early": _early,
    "windows": _early,
}
#: Side of windows that towers without any merge in, in units.
_WINDOW = 4


def place_merges(
    grid: tuple[int, int],
    keep: float,
    encoder: EncoderShape,
    blocks: tuple[int, ...] | None = None,
    schedule: str = "late",
) -> tuple[MergePass, ...]:
    """Passes that leave about ``keep`` of the units, spread over blocks, later ones taking the remainder.

    The default schedule merges late: earlier merging costs more accuracy (docs/results/encoder.md).

    Raises:
        PlanError: There is no such schedule, or ``keep`` is no share.
    """
    if schedule not in MERGE_SCHEDULES:
        raise PlanError(
            "unknown schedule of merges",
            where="--merge-schedule",
            got=repr(schedule),
            expected=did_you_mean(schedule, MERGE_SCHEDULES),
        )
    where = blocks or MERGE_SCHEDULES[schedule](encoder)
    if schedule == "windows":
        merge_removals(grid, keep)  # refuses what is no share
        inside = window_pass(where[0], max(keep, 0.25), encoder.window or _WINDOW)
        return (inside,) if inside.rows or inside.columns else ()
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
        PlanError: Another number of layers, a merge or prune after a block the encoder has not, or inside windows that
            are not the encoder's.
    """
    problems = []
    if plan.layers != llm.layers:
        problems.append(f"keep: got {plan.layers} budgets, the model has {llm.layers} layers")
    for index, step in enumerate(plan.encoder.merges):
        if not 0 <= step.block < encoder.blocks:
            problems.append(f"merges[{index}]: after block {step.block}; the encoder's are 0 to {encoder.blocks - 1}")
        if step.window and encoder.window and step.window != encoder.window:
            problems.append(
                f"merges[{index}]: inside windows of {step.window} units a side; the encoder's have {encoder.window}"
            )
    prune = plan.encoder.prune
    if prune is not None and prune.block >= encoder.blocks:
        problems.append(f"encoder_prune: after block {prune.block}; the encoder's are 0 to {encoder.blocks - 1}")
    if prune is not None and prune.block + prune.stabilise >= encoder.blocks > prune.block:
        left = encoder.blocks - 1 - prune.block
        problems.append(f"encoder_prune.stabilise: {prune.stabilise} blocks after block {prune.block}; {left} are left")
    if prune is not None and prune.window not in (0, encoder.window):
        expected = f"0 or the encoder's {encoder.window}" if encoder.window else "0: the encoder has none"
        problems.append(f"encoder_prune.window: got {prune.window}, expected {expected}")
    if problems:
        raise PlanError("the plan does not fit the model:\n" + "\n".join(f"  - {problem}" for problem in problems))
