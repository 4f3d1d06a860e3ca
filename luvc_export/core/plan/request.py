"""What a user asks of a plan, before the model's depth and the picture's size make budgets of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from luvc_export.core.plan import (
    TENSORRT_TOPK_LIMIT,
    Axis,
    EncoderPlan,
    LastLayer,
    LlmPlan,
    MergeMode,
    Method,
    Positions,
    Reducer,
    Sharing,
    Spectrum,
    Windows,
)
from luvc_export.core.plan.encoder import Restore

#: Share of the depth at which a stage begins, and share of the visual tokens that it keeps.
Stages = tuple[tuple[Fraction, float], ...]


@dataclass(frozen=True)
class EncoderPruneRequest:
    """Share of the units that encoder blocks after ``block`` compute; ``restore`` says which others the LLM sees.

    ``block`` None is where ``depth`` of the encoder's blocks are done.
    """

    keep: float
    block: int | None = None
    restore: Restore = "all"
    depth: Fraction = Fraction(1, 3)


@dataclass(frozen=True)
class TimeRequest:
    """Share of a clip's frames that encoder blocks after ``block`` compute; None is where a third of them is done."""

    keep: float
    block: int | None = None


@dataclass(frozen=True)
class EncoderRequest:
    """What a user asks of the encoder's part of a plan.

    Args:
        merge_keep: Share of units that merging keeps (1 merges nothing); None is 0.75 for a schedule of
            ``budgets.SCHEDULES`` and where ``merge_at`` or ``merge_schedule`` is said, but 1 where the encoder prunes,
            and for all else.
        merge_at: Blocks to merge after, in place of those of ``merge_schedule``.
        merge_schedule: Where the encoder merges, see ``planning.MERGE_SCHEDULES``.
        prune: Units that leave the later blocks.
        merge_mode: See ``EncoderPlan``.
        positions: See ``EncoderPlan``.
        windows: See ``EncoderPlan``.
        size_bias: See ``EncoderPlan``.
        time: Frames of a clip that merge; pictures have none.
    """

    merge_keep: float | None = None
    merge_at: tuple[int, ...] | None = None
    merge_schedule: str = "late"
    prune: EncoderPruneRequest | None = None
    merge_mode: MergeMode = "mean"
    positions: Positions = "mean"
    windows: Windows = "units"
    size_bias: bool = False
    time: TimeRequest | None = None

    def uncompressed(self, grid: tuple[int, int]) -> EncoderPlan:
        """The part that merges and prunes nothing."""
        ways = {name: getattr(self, name) for name in ("merge_mode", "positions", "windows", "size_bias")}
        return EncoderPlan(grid, **ways)


@dataclass(frozen=True)
class LlmRequest:
    """What a user asks of the LLM's part of a plan.

    Args:
        schedule: A named plan (``named_plans``), a schedule of ``budgets``, or a list of budgets, one per layer; None
            takes the default plan, or budgets solved for ``speedup`` or ``kv_mib``.
        method: What a prune ranks tokens by; one without a name is what the named plan says, or for budgets and costs
            alone.
        speedup: Solve for this factor on LLM prefill FLOPs instead of taking ``schedule``.
        kv_mib: Solve for a KV cache of this many MiB instead.
        text: Text tokens that ``speedup`` and ``kv_mib`` count.
        last_layer: None takes what a named plan says, ``full`` for ``none`` and ``drop`` otherwise.
        kv_only: LLM layers that compute only keys and values for visual tokens, see ``LlmPlan``; ``none`` has none.
        frozen: The same as shares of the depth, from one to before the other; ``kv_only`` goes before it.
        stages: Budgets as shares: of the depth, at which a stage begins, and of the tokens that the encoder gives.
        reducer: See ``LlmPlan``.
        axis: See ``LlmPlan``; None takes what a named plan says, or ``token``.
        spectrum: See ``LlmPlan``; None takes what a named plan says, or ``2d``.
        apart: See ``LlmPlan``.
    """

    schedule: str | Sequence[int] | None = None
    method: Method = Method()
    speedup: float | None = None
    kv_mib: float | None = None
    text: int = 64
    last_layer: LastLayer | None = None
    kv_only: tuple[int, ...] = ()
    frozen: tuple[Fraction, Fraction] | None = None
    stages: Stages = ()
    reducer: Reducer = "prune"
    axis: Axis | None = None
    spectrum: Spectrum | None = None
    apart: bool = False

    def part(self, keep: tuple[int, ...], last_layer: LastLayer, kv_only: tuple[int, ...], shared: int = 0) -> LlmPlan:
        """The part with these budgets."""
        filters = self.axis or "token", self.spectrum or "2d"
        return LlmPlan(keep, self.method, last_layer, kv_only, self.reducer, *filters, shared=shared, apart=self.apart)


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
