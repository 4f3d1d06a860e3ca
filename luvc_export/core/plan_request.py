"""What a user asks of a plan, before the model's depth and the picture's size make budgets of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from luvc_export.core.encoder_prune import Restore
from luvc_export.core.plan import LastLayer

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
class PlanRequest:
    """What a user asks of a plan.

    Args:
        schedule: A named plan (``named_plans``), a schedule of ``budgets``, or a list of budgets, one per layer; None
            takes the default plan, or budgets solved for ``speedup`` or ``kv_mib``.
        merge_keep: Share of units that merging in the encoder keeps (1 merges nothing); None is 0.75 for a schedule
            of ``budgets.SCHEDULES`` and where
            ``merge_at`` or ``merge_schedule`` is said, but 1 where the encoder prunes, and for all else.
        merge_at: Encoder blocks to merge after, in place of those of ``merge_schedule``.
        merge_schedule: Where the encoder merges, see ``MERGE_SCHEDULES``.
        encoder_prune: Units that leave the later blocks of the encoder.
        speedup: Solve for this factor on LLM prefill FLOPs instead of taking ``schedule``.
        kv_mib: Solve for a KV cache of this many MiB instead.
        text: Text tokens that ``speedup`` and ``kv_mib`` count.
        joint_images: Images that share one budget, see ``Plan``.
        kv_only: LLM layers that compute only keys and values for visual tokens, see ``Plan``; ``none`` has none.
        frozen: The same as shares of the depth, from one to before the other; ``kv_only`` goes before it.
        last_layer: None takes what a named plan says, ``full`` for ``none`` and ``drop`` otherwise.
        stages: Budgets as shares: of the depth, at which a stage begins, and of the tokens that the encoder gives.
    """

    schedule: str | Sequence[int] | None = None
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
    stages: Stages = ()
    frozen: tuple[Fraction, Fraction] | None = None
