"""The plans that a search may visit: merge passes, and a budget for each layer that still looks at the picture.

Which score prunes, and how wide its filter is, is asked of the calibration part before budgets are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.core.plan import EncoderPlan, LlmPlan, MergePass, Method, Plan, Sharing
from luvc_export.export.compression import scores

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
        through: Visual tokens leave the last layer too, where each has a vector or a part in one.
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
    through: bool = False

    @property
    def cached(self) -> int:
        """Layers that have a cache: the horizon where nothing may go."""
        return self.layers - self.shared

    def plan(self, merges: Merges, keep: Keep, frozen: int = 0) -> Plan:
        """The plan with budgets ``keep`` of the layers before the horizon, the first ``frozen`` of ``order`` frozen.

        Where the last layer sees tokens it takes only their keys and values, which changes no logit and costs less.
        """
        budgets = (*keep, *[0] * (self.layers - len(keep)))
        last = "full" if self.through else "kv_only" if budgets[-1] else "drop"
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


#: Widths of the filter, narrow to wide.
RHOS = (0.1, 0.25, 0.5)

#: Scores that are tried where none is named: none reads the question, all prune before layer 0, each won somewhere.
SCORES = ("residual", "scope", "maxmin", "dart")
#: Of these, what looks at keys: not for models some of whose layers have none.
READS_KEYS = ("dart",)

#: Shares of the encoded tokens, in every layer up to the horizon, at which settings are compared.
SHARES = (0.5, 0.25)


@dataclass(frozen=True)
class Setting:
    """What a plan ranks tokens by, and its trials at ``SHARES``."""

    switches: dict[str, Any]
    trials: tuple[PlanTrial, ...]

    @property
    def agreement(self) -> float:
        """Mean over the shares."""
        return sum(trial.agreement.value for trial in self.trials) / len(self.trials)

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(
            f"{name} {value:g}" if not isinstance(value, str) else value[:16] for name, value in self.switches.items()
        )


def method_asked(score: str | None, rho: float | None, steps: int | None, scorer: str) -> Method:
    """The score that is asked for, the default where none is, with the settings that are."""
    settings = {"rho": rho, "steps": steps, "scorer": scorer if score == "learned" else None}
    return scores.method(score or scores.DEFAULT, **{name: each for name, each in settings.items() if each is not None})


def first_compressed(score: str | None) -> int:
    """The first layer that a search may give fewer tokens: 1 where ``score`` needs a layer before it."""
    return 1 if score is not None and scores.find(score).needs_layer_before else 0


def method_of(switches: dict[str, Any]) -> Method:
    """The method that ``switches``, of ``candidates``, say."""
    return scores.method(switches["score"], **{name: value for name, value in switches.items() if name != "score"})


def candidates(
    score: str | None, rho: float | None, scorer: str = "", steps: int | None = None, keyed: bool = True
) -> list[dict[str, Any]]:
    """What may be chosen where ``score`` and ``rho`` are given (or not, None), and a learned scorer by its hash.

    ``keyed``: every layer of the model has keys.
    """
    choices: list[dict[str, Any]] = []
    fitting = [name for name in SCORES if keyed or name not in READS_KEYS]
    for name in fitting if score is None else (score,):
        widths = (RHOS if rho is None else (rho,)) if scores.find(name).reads_spectrum else ()
        choices += [{"score": name, "rho": width} for width in widths] or [{"score": name}]
    if steps is not None:
        choices = [each | {"steps": steps} for each in choices]
    if scorer:
        choices = [each for each in choices if each["score"] != "learned"]
        choices.append({"score": "learned", "scorer": scorer})
    return choices


def choose(trials: Trials, space: Space, some: Sequence[dict[str, Any]]) -> list[Setting]:
    """All of ``some``, the best first; the earlier of equals. One is not tried at all."""
    if len(some) == 1 or not space.horizon:
        return [Setting(dict(each), ()) for each in some]
    asked = []
    for switches in some:
        own = replace(space, switches={**space.switches, "method": method_of(switches)})
        keeps = [(round(share * space.encoded(())),) * space.horizon for share in SHARES]
        asked.append(Setting(dict(switches), tuple(trials.some(own.plan((), keep)) for keep in keeps)))
    return sorted(asked, key=lambda each: -each.agreement)
