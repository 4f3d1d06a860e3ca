"""From a few user-level choices to a plan: image size, merges, schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from luvc_export.core.budgets import merge_removals, rectangles, schedule, solve_kv, solve_speedup
from luvc_export.core.plan import (
    TENSORRT_TOPK_LIMIT,
    Axis,
    EncoderPlan,
    EncoderPrune,
    LastLayer,
    LlmPlan,
    MergeMode,
    MergePass,
    Method,
    Plan,
    Positions,
    Reducer,
    Sharing,
    Spectrum,
    Windows,
)
from luvc_export.core.plan.encoder_prune import Restore
from luvc_export.core.plan.merging import EARLIEST, at_depth, earliest, third, window_pass
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
class EncoderRequest:
    """What a user asks of the encoder's part of a plan.

    Args:
        merge_keep: Share of units that merging keeps (1 merges nothing); None is ``MERGE_KEEP``, or 1 where the encoder
            prunes.
        merge_at: Blocks to merge after, in place of those of ``merge_schedule``.
        merge_schedule: Where the encoder merges, see ``MERGE_SCHEDULES``.
        prune: Units that leave the later blocks.
        merge_mode: See ``EncoderPlan``.
        positions: See ``EncoderPlan``.
        windows: See ``EncoderPlan``.
        size_bias: See ``EncoderPlan``.
    """

    merge_keep: float | None = None
    merge_at: tuple[int, ...] | None = None
    merge_schedule: str = "late"
    prune: EncoderPruneRequest | None = None
    merge_mode: MergeMode = "mean"
    positions: Positions = "mean"
    windows: Windows = "units"
    size_bias: bool = False

    def plan(self, grid: tuple[int, int], encoder: EncoderShape, fast: bool = False) -> EncoderPlan:
        """The part for images of ``grid`` units; ``fast`` prunes as ``FAST`` does unless something else is asked.

        Raises:
            PlanError: See ``place_merges``.
        """
        wanted = self.prune
        if fast and wanted is None:
            wanted = EncoderPruneRequest(FAST_KEEP, earliest(encoder.blocks))
        share = self.merge_keep
        if share is None:
            share = MERGE_KEEP if wanted is None else 1.0
        return replace(
            self.uncompressed(grid),
            merges=place_merges(grid, share, encoder, self.merge_at, self.merge_schedule),
            prune=None if wanted is None else place_prune(wanted, encoder),
        )

    def uncompressed(self, grid: tuple[int, int]) -> EncoderPlan:
        """The part that merges and prunes nothing."""
        return EncoderPlan(
            grid,
            merge_mode=self.merge_mode,
            positions=self.positions,
            windows=self.windows,
            size_bias=self.size_bias,
        )


@dataclass(frozen=True)
class LlmRequest:
    """What a user asks of the LLM's part of a plan.

    Args:
        schedule: ``even``, ``thirds``, ``linear``, ``cosine``, ``none``, ``fast``, or a list of budgets, one per layer.
        method: What a prune ranks tokens by; one without a name is for budgets and costs alone.
        speedup: Solve for this factor on LLM prefill FLOPs instead of taking ``schedule``.
        kv_mib: Solve for a KV cache of this many MiB instead.
        text: Text tokens that ``speedup`` and ``kv_mib`` count.
        last_layer: None takes ``full`` for ``none`` and ``drop`` otherwise.
        kv_only: LLM layers that compute only keys and values for visual tokens, see ``LlmPlan``; ``none`` has none.
        reducer: See ``LlmPlan``.
        axis: See ``LlmPlan``.
        spectrum: See ``LlmPlan``.
    """

    schedule: str | Sequence[int] = DEFAULT_SCHEDULE
    method: Method = Method()
    speedup: float | None = None
    kv_mib: float | None = None
    text: int = 64
    last_layer: LastLayer | None = None
    kv_only: tuple[int, ...] = ()
    reducer: Reducer = "prune"
    axis: Axis = "token"
    spectrum: Spectrum = "2d"

    @property
    def name(self) -> str:
        """Name of the schedule in the plan, for people."""
        if self.speedup is not None:
            return f"speedup {self.speedup:g}"
        if self.kv_mib is not None:
            return f"kv-mib {self.kv_mib:g}"
        return self.schedule if isinstance(self.schedule, str) else "list"

    def check(self) -> None:
        """Check that one thing alone chooses the budgets.

        Raises:
            PlanError: Two do.
        """
        if self.speedup is not None and self.kv_mib is not None:
            raise PlanError("--speedup and --kv-mib both choose the budgets", fix="give one of them")
        for goal, value in {"--speedup": self.speedup, "--kv-mib": self.kv_mib}.items():
            if value is not None and self.schedule != DEFAULT_SCHEDULE:
                schedule = self.schedule if isinstance(self.schedule, str) else "a list of budgets"
                raise PlanError(
                    f"{goal} solves the budgets itself",
                    where="--plan",
                    got=schedule,
                    fix=f"leave out --plan, or {goal}",
                )

    def plan(self, encoder: EncoderPlan, llm: DecoderShape, images: int) -> LlmPlan:
        """The part for a model of ``llm`` behind ``encoder``, where ``images`` share a budget.

        Raises:
            PlanError: The budgets cannot be solved.
        """
        full, tokens = images * encoder.units, images * encoder.tokens
        if self.speedup is not None:
            keep = solve_speedup(llm, full, tokens, self.text, self.speedup, self.kv_only)
        elif self.kv_mib is not None:
            keep = solve_kv(llm, tokens, self.text, self.kv_mib)
        elif self.schedule == FAST:
            keep = (tokens,) * llm.layers
        elif isinstance(self.schedule, str):
            keep = schedule(self.schedule, llm.layers, tokens)
        else:
            keep = tuple(self.schedule)
        last = self.last_layer or ("kv_only" if self.schedule == FAST else "drop")
        if last != "drop" and isinstance(self.schedule, str) and len(keep) > 1:
            keep = (*keep[:-1], keep[-2])
        if self.reducer == "merge":
            keep = rectangles(encoder.merged_grid, keep)
        return self._part(keep, last, self.kv_only)

    def uncompressed(self, llm: DecoderShape, tokens: int) -> LlmPlan:
        """The part that keeps all ``tokens``."""
        return self._part((tokens,) * llm.layers, self.last_layer or "full", ())

    def _part(self, keep: tuple[int, ...], last: LastLayer, kv_only: tuple[int, ...]) -> LlmPlan:
        return LlmPlan(keep, self.method, last, kv_only, self.reducer, self.axis, self.spectrum)


@dataclass(frozen=True)
class PlanRequest:
    """What a user asks of a plan, part by part.

    Args:
        llm: Budgets, and how tokens are chosen.
        encoder: What merges or leaves.
        sharing: Images that share a budget.
        topk_limit: See ``Plan``.
    """

    llm: LlmRequest = LlmRequest()
    encoder: EncoderRequest = EncoderRequest()
    sharing: Sharing = Sharing()
    topk_limit: int | None = TENSORRT_TOPK_LIMIT


def solve(request: PlanRequest, grid: tuple[int, int], llm: DecoderShape, encoder: EncoderShape) -> Plan:
    """The plan of ``request`` for a model of these shapes and an image of ``grid`` units.

    Raises:
        PlanError: The choices contradict each other, cannot be met, or do not fit the model.
    """
    request.llm.check()
    name, images = request.llm.name, request.sharing.images
    if name == "none":
        whole = request.encoder.uncompressed(grid)
        keeps_all = request.llm.uncompressed(llm, images * whole.units)
        return Plan(whole, keeps_all, request.sharing.without_quota(), name, request.topk_limit)
    seen = request.encoder.plan(grid, encoder, request.llm.schedule == FAST)
    Plan(seen, LlmPlan((0,)))  # lists what is wrong with the encoder before budgets are made of it
    plan = Plan(seen, request.llm.plan(seen, llm, images), request.sharing, name, request.topk_limit)
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
