"""The plans that a search may visit: merge passes, and a budget for each layer that still looks at the picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.core.plan import EncoderPlan, LlmPlan, MergePass, Plan, Sharing

Merges = tuple[MergePass, ...]
Keep = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """Plans of one model and image size.

    Args:
        grid: Units (rows, columns) of an image.
        layers: Of the LLM.
        horizon: From this layer on no visual token is left.
        merges: Ways to merge in the encoder.
        whole: First layers that are given every token, because the score needs a layer before it.
        switches: Other fields of the plan's parts by name, the same for all.
        sharing: Images that share a budget, the same for all.
        order: Layers that may be frozen, the one that matters least first; a plan freezes the first of them.
        shared: Last layers that read earlier caches: they see no token of their own (``LlmPlan.shared``).
    """

    grid: tuple[int, int]
    layers: int
    horizon: int
    merges: tuple[Merges, ...] = ((),)
    whole: int = 0
    switches: dict[str, Any] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    sharing: Sharing = Sharing()
    shared: int = 0

    @property
    def cached(self) -> int:
        """Layers that have a cache: the horizon where nothing may go."""
        return self.layers - self.shared

    def plan(self, merges: Merges, keep: Keep, frozen: int = 0) -> Plan:
        """The plan with budgets ``keep`` of the layers before the horizon, the first ``frozen`` of ``order`` frozen.

        Where the last layer sees tokens it takes only their keys and values, which changes no logit and costs less.
        """
        budgets = (*keep, *[0] * (self.layers - len(keep)))
        last = "kv_only" if budgets[-1] else "drop"
        still = tuple(layer for layer in sorted(self.order[:frozen]) if layer < self.layers - 1 and budgets[layer])
        nothing = Plan(EncoderPlan(self.grid, merges), LlmPlan((0,)), self.sharing.without_quota(), "searched")
        llm = {"keep": budgets, "last_layer": last, "kv_only": still, "shared": self.shared}
        return nothing.changed(**llm, **self.switches, sharing=self.sharing)

    def frozen(self, plan: Plan) -> int:
        """How many of ``order`` a plan freezes."""
        return max((self.order.index(layer) + 1 for layer in plan.llm.kv_only), default=0)

    def encoded(self, merges: Merges) -> int:
        """Tokens that the encoder gives to a budget."""
        return EncoderPlan(self.grid, merges).tokens * self.sharing.images

    def full(self, merges: Merges) -> Keep:
        """All of them, up to the horizon."""
        return (self.encoded(merges),) * self.horizon

    def none(self) -> Plan:
        """The uncompressed plan."""
        keep = (*(self.grid[0] * self.grid[1] * self.sharing.images,) * self.cached, *(0,) * self.shared)
        llm = LlmPlan(keep, last_layer="full", shared=self.shared)
        return Plan(EncoderPlan(self.grid), llm, self.sharing.without_quota(), "none")


#: Layers at which the curve is drawn, at most, beside those that the bisection visits.
_POINTS = 9


@dataclass(frozen=True)
class Horizon:
    """``layer``: all visual tokens may go before it, their number if never. ``curve``: trials by layer."""

    layer: int
    curve: dict[int, PlanTrial]


def cut(space: Space, layer: int) -> Plan:
    """Nothing is compressed, but every visual token goes before ``layer``."""
    return space.plan((), (space.encoded(()),) * layer)


def find_horizon(trials: Trials, space: Space) -> Horizon:
    """Bisect for the first layer before which all visual tokens may go at the bar; dropping earlier only hurts more.

    Layers that the bisection does not visit are drawn from the first questions alone.
    """
    layers = space.cached
    low, high = -1, layers
    curve: dict[int, PlanTrial] = {}
    while high - low > 1:
        middle = (low + high) // 2
        curve[middle] = trials.of(cut(space, middle))
        low, high = (low, middle) if curve[middle].holds else (middle, high)
    step = max(1, -(-layers // (_POINTS - 1)))
    for layer in {*range(0, layers, step), layers - 1} - curve.keys():
        curve[layer] = trials.glance(cut(space, layer))
    return Horizon(high, dict(sorted(curve.items())))
