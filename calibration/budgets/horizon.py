"""The horizon: the first layer that no longer needs the picture. No budget is spent from there on."""

from __future__ import annotations

from dataclasses import dataclass

from luvc_export.calibration.budgets.space import Space
from luvc_export.calibration.budgets.trials import Trial, Trials
from luvc_export.core.plan import Plan

#: Layers at which the curve is drawn, at most, beside those that the bisection visits.
_POINTS = 9


@dataclass(frozen=True)
class Horizon:
    """``layer``: all visual tokens may go before it, the number of layers if never. ``curve``: trials by layer."""

    layer: int
    curve: dict[int, Trial]


def cut(space: Space, layer: int) -> Plan:
    """Nothing is compressed, but every visual token goes before ``layer``."""
    return space.plan((), (space.encoded(()),) * layer)


def find(trials: Trials, space: Space) -> Horizon:
    """Bisect for the first layer before which all visual tokens may go at the bar; dropping earlier only hurts more.

    Layers that the bisection does not visit are drawn from the first questions alone.
    """
    layers = space.layers
    low, high = -1, layers
    curve: dict[int, Trial] = {}
    while high - low > 1:
        middle = (low + high) // 2
        curve[middle] = trials.of(cut(space, middle))
        low, high = (low, middle) if curve[middle].holds else (middle, high)
    step = max(1, -(-layers // (_POINTS - 1)))
    for layer in {*range(0, layers, step), layers - 1} - curve.keys():
        curve[layer] = trials.glance(cut(space, layer))
    return Horizon(high, dict(sorted(curve.items())))
