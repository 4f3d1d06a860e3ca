"""Plans tried on a part: few questions first, more only while the bar is within reach; every verdict is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import Store, pack, plan_key, unpack
from luvc_export.calibration.intervals import Interval
from luvc_export.core.plan import Plan
from luvc_export.errors import CheckFailed

#: Shares of the questions after which a plan may be given up.
RUNGS = (1 / 8, 1 / 4, 1 / 2, 1.0)


Bools = Sequence[float] | NDArray[np.bool_]


def agreement(agrees: Bools, clusters: Sequence[int]) -> Interval:
    """Share of answers that agree, with the interval of ``intervals.accuracy``.

    Without one disagreement that interval cannot estimate how dependent the questions of a picture are and counts
    pictures. But it proves no less than the same answers with one disagreement more, so the better bound of the two
    is taken.
    """
    interval = intervals.accuracy(np.asarray(agrees, dtype=np.float64), clusters)
    if len(agrees) and all(agrees):
        one = np.ones(len(agrees))
        one[0] = 0.0
        return Interval(1.0, max(interval.low, intervals.accuracy(one, clusters).low), 1.0)
    return interval


def shuffled(clusters: Sequence[int]) -> list[int]:
    """Indices of the questions, whole clusters in a random order that depends on nothing."""
    numbers = list(dict.fromkeys(clusters))
    ranks = dict(zip(numbers, np.random.default_rng(0).permutation(len(numbers)), strict=True))
    return sorted(range(len(clusters)), key=lambda index: ranks[clusters[index]])


class Asks(Protocol):
    """What answers: see ``part.Part``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def clusters(self) -> Sequence[int]: ...  # noqa: D102
    def agrees(self, plan: Plan, some: range) -> Sequence[float]: ...  # noqa: D102


class Gains(Protocol):
    """What answers with gains: see ``retrieval.PairsPart``."""

    @property
    def full(self) -> Sequence[float]: ...  # noqa: D102
    def share(self, gains: Sequence[float]) -> Interval: ...  # noqa: D102


@dataclass(frozen=True)
class PlanTrial:
    """A plan and what is known of it.

    Attributes:
        plan: What was tried.
        flops: Its prefill cost.
        agreement: With the uncompressed model, on the first ``asked`` questions.
        asked: How many.
        wrong: How many of those disagree.
        whole: Whether these are all questions.
        holds: Whether all were asked and the lower bound reaches the bar.
    """

    plan: Plan
    flops: int
    agreement: Interval
    asked: int
    wrong: int
    whole: bool
    holds: bool


class Trials:
    """Tries plans and remembers them.

    A plan holds where the lower bound of its agreement reaches ``bar``; ``flops`` is the prefill cost of a plan.
    ``gains``: the part's answers are gains, of which a share is kept, and no verdicts.
    """

    def __init__(
        self, part: Asks, bar: float, flops: Callable[[Plan], int], store: Store, gains: Gains | None = None
    ) -> None:
        self.part, self.bar, self.flops, self.store, self.gains = part, bar, flops, store, gains
        self.full = [1.0] * len(part.clusters) if gains is None else gains.full
        self.made: dict[str, PlanTrial] = {}
        count = len(part.clusters)
        self.stops = sorted({max(1, round(share * count)) for share in RUNGS})

    def of(self, plan: Plan) -> PlanTrial:
        """Ask until the bar is out of reach even if all other answers agreed.

        On the safe side: disagreements that crowd in one picture widen the interval, and more of them elsewhere may
        narrow it again, so a plan is sometimes given up that would just have held; never the other way.
        """
        return self._try(plan, self.stops, give_up=True)

    def glance(self, plan: Plan) -> PlanTrial:
        """Ask the first questions alone."""
        return self._try(plan, self.stops[:1], give_up=True)

    def some(self, plan: Plan) -> PlanTrial:
        """Ask the first quarter of the questions, all of them."""
        return self._try(plan, self.stops[:2], give_up=False)

    def whole(self, plan: Plan) -> PlanTrial:
        """Ask every question."""
        return self._try(plan, self.stops, give_up=False)

    def uncompressed(self, plan: Plan) -> PlanTrial:
        """Ask every question under the plan that compresses nothing.

        Raises:
            CheckFailed: The answers are not those of the uncompressed model.
        """
        none = self.whole(plan)
        if not none.holds:
            raise CheckFailed(
                "without compression the model does not repeat its own answers",
                got=f"agreement {none.agreement.value:.4f}, lower bound {none.agreement.low:.4f}",
                expected=f"a lower bound of at least {self.bar:g}",
                fix="luvc-export parity hf:MODEL torch:MODEL#none shows where they part",
            )
        return none

    def share(self, agrees: Sequence[float]) -> Interval:
        """Of the first questions."""
        if self.gains is not None:
            return self.gains.share(agrees)
        return agreement(agrees, self.part.clusters[: len(agrees)])

    def at_best(self, agrees: Sequence[float]) -> float:
        """Lower bound over all questions if every one after the first ``agrees`` were answered as uncompressed."""
        return self.share([*agrees, *self.full[len(agrees) :]]).low

    def verdicts(self, plan: Plan) -> list[float]:
        """Whether each question agrees, or what it gains, all asked."""
        return [one for step in self._steps(self.stops) for one in self._agrees(plan, step)]

    def _steps(self, stops: Sequence[int]) -> list[range]:
        return [range(first, last) for first, last in zip([0, *stops], stops, strict=False)]

    def _try(self, plan: Plan, stops: Sequence[int], give_up: bool) -> PlanTrial:
        key = json.dumps(plan_key(plan), sort_keys=True)
        before = self.made.get(key)
        if before and (before.whole or before.asked >= stops[-1]):
            return before
        agrees: list[float] = []
        for step in self._steps(stops):
            agrees += self._agrees(plan, step)
            if give_up and self.at_best(agrees) < self.bar:
                break
        asked, whole = len(agrees), len(agrees) == len(self.part.clusters)
        share = self.share(agrees)
        wrong = sum(one < best for one, best in zip(agrees, self.full, strict=False))
        holds = whole and share.low >= self.bar
        trial = PlanTrial(plan, self.flops(plan), share, asked, wrong, whole, holds)
        self.made[key] = trial
        return trial

    def _agrees(self, plan: Plan, step: range) -> Sequence[float]:
        if self.gains is not None:
            return self.part.agrees(plan, step)  # which keeps its scores
        key = [self.part.name, step.start, step.stop, plan_key(plan)]
        return unpack(self.store.of(key, lambda: pack([*map(bool, self.part.agrees(plan, step))])), len(step))
