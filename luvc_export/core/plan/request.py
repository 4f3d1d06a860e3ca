"""What a user asks of a plan, before the model's depth and the picture's size make budgets of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial

from luvc_export.core.options import option
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
from luvc_export.core.plan import stripes as striping
from luvc_export.core.plan.encoder import Restore
from luvc_export.errors import UsageError

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


_shaping = partial(option, verbs=("plan", "export"))


def _layers(text: str | None) -> tuple[int, ...]:
    """Parse numbers of layers and runs of them, ``8-20,24``, into ascending ones; None is no layer.

    Raises:
        UsageError: It is no such list, or so long that no model has these layers.
    """
    numbers = set[int]()
    for part in [] if text is None else re.split(r"[\s,]+", text.strip()):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError("cannot read the layers", where="--kv-only", got=text, expected="such as 8-20,24")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(numbers))


def _share_at(text: str, flag: str) -> tuple[float, int | None]:
    """Parse ``SHARE@BLOCK``; None for the block where it is not said.

    Raises:
        UsageError: It is neither that nor a share.
    """
    match = re.fullmatch(r"(\d*\.?\d+)(?:@(\d+))?", text.strip())
    if not match:
        raise UsageError("cannot read the share", where=flag, got=text, expected="SHARE or SHARE@BLOCK, such as 0.5@7")
    return float(match[1]), None if match[2] is None else int(match[2])


def _prune(text: str | None) -> EncoderPruneRequest | None:
    return None if text is None else EncoderPruneRequest(*_share_at(text, "--encoder-keep"))


def _time(text: str | None) -> TimeRequest | None:
    return None if text is None else TimeRequest(*_share_at(text, "--merge-frames"))


@dataclass(frozen=True)
class EncoderRequest:
    """What a user asks of the encoder's part of a plan.

    Args:
        merge_keep: None is 0.75 for a schedule of ``budgets.SCHEDULES`` and where ``merge_at`` or ``merge_schedule`` is
            said, but 1 where the encoder prunes, and for all else.
        merge_at: Blocks to merge after, in place of those of ``merge_schedule``.
        merge_schedule: See ``planning.MERGE_SCHEDULES``.
        restore: Of ``prune``, where that does not say it.
        merge_mode: See ``EncoderPlan``.
        positions: See ``EncoderPlan``.
        windows: See ``EncoderPlan``.
        size_bias: See ``EncoderPlan``.
        time: Frames of a clip that merge; pictures have none.

    Raises:
        UsageError: Units are to come back that never left.
    """

    merge_keep: float | None = _shaping(
        None,
        "Share of units that merging keeps, such as 0.75; default: all, but for schedules and luvc; --data tries 1, "
        "0.75 and 0.5.",
        tags=("shapes", "encoder"),
    )
    merge_at: tuple[int, ...] | None = None
    merge_schedule: str = _shaping(
        "late",
        "Where the encoder merges: late, gradual, early, every (block), or windows: inside them.",
        tags=("shapes", "encoder", "by hand"),
    )
    time: TimeRequest | None = _shaping(
        None,
        "Of a clip (--joint-frames), the share of frames that encoder blocks after a third of them compute.",
        "--merge-frames",
        metavar="SHARE[@BLOCK]",
        written=str | None,
        read=_time,
        tags=("shapes", "encoder", "by hand"),
    )
    prune: EncoderPruneRequest | None = _shaping(
        None,
        "Share of units that goes on after an encoder block, such as 0.5@7; default block: a third of the depth.",
        "--encoder-keep",
        metavar="SHARE[@BLOCK]",
        written=str | None,
        read=_prune,
        keyword="encoder_prune",
        tags=("shapes", "encoder", "by hand"),
    )
    restore: Restore = _shaping(
        "all",
        "Of units --encoder-keep left out, the LLM sees: all, or none.",
        "--encoder-restore",
        written=str,
        choices=("all", "none"),
        tags=("shapes", "by hand"),
    )
    merge_mode: MergeMode = "mean"
    positions: Positions = "mean"
    windows: Windows = "units"
    size_bias: bool = False

    def __post_init__(self) -> None:
        if self.restore != "all" and self.prune is None:
            raise UsageError(
                "all units stay, so none can come back", where="--encoder-restore", fix="give --encoder-keep too"
            )
        if self.restore != "all" and self.prune is not None:
            object.__setattr__(self, "prune", replace(self.prune, restore=self.restore))

    def uncompressed(self, grid: tuple[int, int]) -> EncoderPlan:
        """The part that merges and prunes nothing."""
        ways = {name: getattr(self, name) for name in ("merge_mode", "positions", "windows", "size_bias")}
        return EncoderPlan(grid, **ways)


def check_frames(encoder: EncoderRequest, joint_frames: int | None) -> None:
    """Refuse frames that merge where no clip has any.

    Raises:
        UsageError: As said.
    """
    if encoder.time is not None and joint_frames is None:
        raise UsageError("frames of a clip merge", where="--merge-frames", fix="pass --joint-frames N")


@dataclass(frozen=True)
class LlmRequest:
    """What a user asks of the LLM's part of a plan.

    Args:
        schedule: A named plan (``named_plans``), a schedule of ``budgets``, or a list of budgets, one per layer; None
            takes the default plan, or budgets solved for ``speedup`` or ``kv_mib``.
        method: What a prune ranks tokens by; one without a name is what the named plan says, or for budgets and costs
            alone.
        text: Text tokens that ``speedup`` and ``kv_mib`` count.
        last_layer: None takes what a named plan says, ``full`` for ``none`` and ``drop`` otherwise.
        kv_only: See ``LlmPlan``; ``none`` has none.
        stages: Budgets as shares: of the depth, at which a stage begins, and of the tokens that the encoder gives.
        turns: See ``LlmPlan``; None takes what a named plan says, or 0.
        stripes: Of the schedule ``striped`` alone; ``kv_only`` goes before the layers that it says.
        reducer: See ``LlmPlan``.
        axis: See ``LlmPlan``; None takes what a named plan says, or ``token``.
        spectrum: See ``LlmPlan``; None takes what a named plan says, or ``2d``.
        apart: See ``LlmPlan``.
    """

    schedule: str | Sequence[int] | None = None
    method: Method = Method()
    speedup: float | None = _shaping(None, "Solve budgets for this factor on prefill FLOPs.", tags=("goal", "budgets"))
    kv_mib: float | None = _shaping(
        None, "Solve budgets for a KV cache of this many MiB.", tags=("goal", "budgets", "by hand")
    )
    text: int = 64
    last_layer: LastLayer | None = _shaping(
        None,
        "drop, kv_only or full; default: drop; for none, full.",
        written=str | None,
        tags=("shapes", "budgets", "by hand"),
    )
    kv_only: tuple[int, ...] = _shaping(
        (),
        "LLM layers in which visual tokens give keys and values and nothing else, such as 8-20,24.",
        metavar="LAYERS",
        written=str | None,
        read=_layers,
        tags=("shapes", "budgets", "by hand"),
    )
    turns: int | None = _shaping(
        None,
        "In layers of --kv-only and stripes every N-th visual token works, by turns, moving others; 2 or more, or 0.",
        metavar="N",
        least=0,
        tags=("shapes", "budgets", "by hand"),
    )
    stages: Stages = ()
    stripes: striping.Stripes | None = _shaping(
        None,
        f"Of --plan striped: {striping.Stripes()}, or some of these; shares are of the depth, share of the tokens.",
        metavar="NAME=VALUE,...",
        written=str | None,
        read=striping.read,
        tags=("shapes", "budgets", "by hand"),
    )
    reducer: Reducer = "prune"
    axis: Axis | None = _shaping(None, "Filter along token or channel.", written=str | None, tags=("shapes",))
    spectrum: Spectrum | None = _shaping(
        None, "1d over the span, or 2d over the grid.", written=str | None, tags=("shapes",)
    )
    apart: bool = False

    def goals(self) -> dict[str, float]:
        """What budgets are solved for, by name."""
        goals = {"speedup": self.speedup, "kv_mib": self.kv_mib}
        return {name: value for name, value in goals.items() if value is not None}

    def part(self, keep: tuple[int, ...], last_layer: LastLayer, kv_only: tuple[int, ...], shared: int = 0) -> LlmPlan:
        """The part with these budgets; what else the two have in common it takes as it is."""
        common = {each.name: getattr(self, each.name, None) for each in fields(LlmPlan)}
        common |= {"keep": keep, "last_layer": last_layer, "kv_only": kv_only, "shared": shared}
        return LlmPlan(**{name: value for name, value in common.items() if value is not None})


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
