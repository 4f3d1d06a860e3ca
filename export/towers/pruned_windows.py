"""What a prune of units leaves of an encoder's windows: rotary caches of kept units, and windows with gaps.

Where every window keeps as many units, windows only become shorter. Where the whole image chooses, a window of the
grid holds any number of kept units: then linear layers run on the kept ones alone, and attention inside windows on the
whole windows, whose gaps a bias hides (ours).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.export.compression import unit_prune

#: Added to attention scores of units that left: far below any score, and a number fp16 has.
GONE = -1e4


class Window(NamedTuple):
    """Equal windows side by side: tokens begin..end, ``length`` each, caches [windows, length, Dh / 2]."""

    begin: int
    end: int
    length: int
    cos: Tensor
    sin: Tensor
    bias: Tensor | None


class EncoderState(NamedTuple):
    """Encoder state between merges: tokens in window order, one window for all, the windows, and the way back.

    ``order`` is the raster index at each place, ``raster`` the place of each raster index; ``batches`` are (windows,
    units in each) of equal windows.
    """

    x: Tensor
    whole: list[Window]
    windows: list[Window]
    raster: Tensor
    order: Tensor
    batches: tuple[tuple[int, int], ...]


class PrunedState(NamedTuple):
    """After a prune.

    Attributes:
        kept: The units.
        seen: The state when they left, with the windows of all units.
        last: Last block whose attention sees all units.
        whole: One window for the kept ones.
        windows: Windows of kept ones, or windows of the grid with gaps.
        place: Where each unit is among the kept, int64 [n, U], 0 for those that left; None where windows have no gaps.
        given: Raster places of the kept units where they are all that ever were; then they stand in that order.
    """

    kept: unit_prune.Kept
    seen: EncoderState
    last: int
    whole: list[Window]
    windows: list[Window]
    place: Tensor | None
    given: Tensor | None = None


def quotas(prune: EncoderPrune, stage: EncoderState) -> list[tuple[int, int, int]]:
    """(Parts, units, kept) of equal parts that share a quota, in window order."""
    batches = stage.batches if prune.window else ((1, stage.order.shape[0]),)
    return [(parts, units, prune.count(units)) for parts, units in batches]


def leave(prune: EncoderPrune, stage: EncoderState, kept: unit_prune.Kept, patches: int) -> PrunedState:
    """The windows that are left of ``stage``, whose units have ``patches`` tokens each."""
    whole = _whole(stage, kept.chosen_at, patches)
    cos, sin, bias = whole.cos, whole.sin, whole.bias
    if prune.window:
        windows, begin = [], 0
        for parts, _, keep in quotas(prune, stage):
            end, inside = begin + parts * keep * patches, keep * patches
            caches = [part[:, begin:end].reshape(-1, inside, part.shape[2]) for part in (cos, sin)]
            hidden = None if bias is None else bias[:, begin:end].reshape(-1, inside)
            windows.append(Window(begin, end, inside, caches[0], caches[1], hidden))
            begin = end
        return PrunedState(kept, stage, prune.block + prune.stabilise, [whole], windows, None)
    place, windows = _gapped(stage, kept.chosen_at, patches)
    return PrunedState(kept, stage, prune.block + prune.stabilise, [whole], windows, place)


def of_units(stage: EncoderState, units: Tensor, chosen: Tensor, patches: int) -> PrunedState:
    """The windows of ``stage`` where only ``units`` ever were.

    Args:
        stage: Of the whole grid.
        units: Raster indices int64 [n, K], ascending.
        chosen: Those units [n, K, F].
        patches: Tokens of a unit.
    """
    kept = unit_prune.Kept(stage.raster[units], chosen, chosen, None)
    place, windows = _gapped(stage, kept.chosen_at, patches)
    return PrunedState(kept, stage, -1, [_whole(stage, kept.chosen_at, patches)], windows, place, units)


def _whole(stage: EncoderState, chosen_at: Tensor, patches: int) -> Window:
    """One window for the units at ``chosen_at`` [n, K]."""
    (every,), length = stage.whole, chosen_at.shape[1] * patches
    cos, sin = (_kept(part, chosen_at, patches) for part in (every.cos, every.sin))
    bias = None if every.bias is None else _kept(every.bias[:, :, None], chosen_at, patches)[:, :, 0]
    return Window(0, length, length, cos, sin, bias)


def _gapped(stage: EncoderState, chosen_at: Tensor, patches: int) -> tuple[Tensor, list[Window]]:
    """Where each unit [n, U] is among those at ``chosen_at``, and the stage's windows with the others hidden."""
    itself = (torch.arange(stage.order.shape[0])[:, None] == chosen_at[:, None, :]).float()
    place = (itself @ torch.arange(chosen_at.shape[1], dtype=torch.float32)[:, None])[:, :, 0].to(torch.int64)
    gone = (1 - itself.sum(-1)).mul(GONE)[:, :, None].expand(-1, -1, patches).flatten(1).to(stage.x.dtype)
    gapped = []
    for window in stage.windows:
        hidden = gone[:, window.begin : window.end].reshape(-1, window.length)
        gapped.append(window._replace(bias=hidden if window.bias is None else hidden + window.bias))
    return place, gapped


def _kept(values: Tensor, index: Tensor, patches: int) -> Tensor:
    """Tokens of kept units [n, K * patches, ...] of [n or 1, U * patches, ...]."""
    units = values.unflatten(1, (-1, patches))
    units = units.expand(index.shape[0], -1, -1, -1)
    return unit_prune.rows(units, index).flatten(1, 2)


def raster(kept: unit_prune.Kept, stage: EncoderState) -> tuple[Tensor, Tensor]:
    """Raster index of kept units, ascending, and their places among the kept, both int64 [n, K]."""
    ordered = torch.topk(stage.order[kept.chosen_at], kept.chosen_at.shape[1], largest=False, sorted=True)
    return ordered.values, ordered.indices
