"""What quantising changes, as parity sees it: answers that differ, and how far predictions move.

Of bundles that embed: pages that queries find no more, and how far vectors move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.cases import Case
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.intervals import Floats, Interval
from luvc_export.calibration.pairs import Pairs, Retrieved, kept, ndcg
from luvc_export.calibration.parity.compare import Comparison, compare
from luvc_export.calibration.parity.metrics import difference, prediction
from luvc_export.calibration.quantise import bisect
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.base import LOGITS, VECTORS, Encoded, Forced, Observation, Runner, Said
from luvc_export.errors import Progress

#: Cases whose predictions rank the sites.
OBSERVED = 8


class Remembered:
    """A runner that is asked the same cases again and again but answers once; see ``runners.base.Runner``."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.name, self.dtype, self.plan, self.can_force = runner.name, runner.dtype, runner.plan, runner.can_force
        self._said: dict[tuple[int, ...], list[Said]] = {}
        self._seen: dict[tuple[int, ...], list[Observation]] = {}
        self._vectors: list[Any] = []

    def vectors(self, cases: Sequence[Case]) -> list[Any]:
        """See ``GraphRunner``; of the first cases it was asked."""
        self._vectors = self._vectors or self.runner.vectors(cases)  # type: ignore[attr-defined]
        return self._vectors

    def observe(self, cases: Sequence[Case], forced: Forced = None, features: Encoded = None) -> list[Observation]:
        """See ``Runner``; nothing is remembered of forced runs."""
        if forced is not None or features is not None:
            return self.runner.observe(cases, forced, features)
        key = tuple(map(id, cases))
        if key not in self._seen:
            self._seen[key] = self.runner.observe(cases)
        return self._seen[key]

    def answer(self, cases: Sequence[Case], longest: int) -> list[Said]:
        """See ``Runner``."""
        key = (longest, *map(id, cases))
        if key not in self._said:
            self._said[key] = self.runner.answer(cases, longest)
        return self._said[key]


def answers(
    reference: Runner,
    candidate: Runner,
    data: CalibrationSet,
    progress: Progress = lambda stage, done: None,
) -> Comparison:
    """Both runners' answers to every case."""
    return compare(
        reference, candidate, data.cases, observe=0, longest=data.longest, stops=data.stops, progress=progress
    )


@dataclass(frozen=True)
class Ranked:
    """What two runners make of the same pairs: scores float64 [queries, pages] of each."""

    pairs: Pairs
    reference: Floats
    candidate: Floats

    @property
    def answered(self) -> Sequence[Case]:
        """Queries."""
        return self.pairs.queries

    @property
    def found(self) -> tuple[Retrieved, Retrieved]:
        """By the reference and by the candidate."""
        return self.pairs.retrieved(self.reference), self.pairs.retrieved(self.candidate)

    @property
    def kept(self) -> Interval:
        """Share of the reference's NDCG@5."""
        left, right = (ndcg(scores, self.pairs.answers) for scores in (self.reference, self.candidate))
        return kept(right, left, self.pairs.clusters)


def ranked(reference: Any, candidate: Any, pairs: Pairs) -> Ranked:
    """Both runners' scores of every query and page.

    Raises:
        UsageError: The reference finds the pages no better than chance.
    """
    left, right = (pairs.scores_of(runner.vectors(pairs.inputs)) for runner in (reference, candidate))
    pairs.check(pairs.retrieved(left))
    return Ranked(pairs, left, right)


def share(comparison: Comparison | Ranked) -> float:
    """Share of answers with the same text, or of NDCG@5."""
    if isinstance(comparison, Ranked):
        return comparison.kept.value
    return float(np.mean([item.edits == 0 for item in comparison.answered]))


def moved(reference: Runner, candidate: Runner, cases: Sequence[Case]) -> float:
    """How far predictions move: KL divergence at the worst text position of a case in nats, mean over cases.

    Where there are vectors: their relative L2, mean over cases.
    """
    pairs = [(a.tensors, b.tensors) for a, b in zip(reference.observe(cases), candidate.observe(cases), strict=True)]
    if VECTORS in pairs[0][0]:
        return float(np.mean([difference(one[VECTORS], other[VECTORS]).rel_l2 for one, other in pairs]))
    return float(np.mean([prediction(one[LOGITS], other[LOGITS]).kl for one, other in pairs]))


class HeldOut:
    """A plan of a bundle, and the half of the data that quantised plans are asked; the other one they learn of.

    Raises:
        UsageError: Data are pairs, and the plan finds the pages no better than chance.
    """

    def __init__(self, bundle: Bundle, plan: str, data: CalibrationSet, threads: int | None) -> None:
        self._bundle, self._plan, self.threads, self.record = bundle, plan, threads, data.record
        self.fitted, self.asked = data.split()
        self.samples, self._pairs = list(self.fitted.cases), None
        if not bundle.manifest.does.decodes:
            self._pairs = Pairs(self.asked.cases, self.asked.name)
            self.samples = [*Pairs(self.fitted.cases, self.fitted.name).samples]
            self.compare(self.reference)  # which refuses those at chance

    @cached_property
    def reference(self) -> Remembered:
        """The plan as it is."""
        return Remembered(open_bundle(str(self._bundle.folder), self._plan, self.threads))

    def compare(self, runner: Any) -> Comparison | Ranked:
        """Answers of the plan and of ``runner``, or what they find of pairs."""
        if self._pairs is None:
            return answers(self.reference, runner, self.asked)
        return ranked(self.reference, runner, self._pairs)


class Trials:
    """Choices of what is quantised, each as graphs of their own: what they answer, and how far predictions move.

    Attributes:
        measured: Comparisons by the sites that were kept high.
    """

    def __init__(self, held: HeldOut, quantiser: Quantiser, progress: Progress) -> None:
        self._held, self._quantiser, self._progress, self._reference = held, quantiser, progress, held.reference
        self.measured: dict[tuple[str, ...], Comparison | Ranked] = {}

    def fewest(self, min_agreement: float) -> bisect.Found:
        """The fewest sites kept high with which so many answers stay; before that, those that get eight bits."""
        recipe, quantiser = self._quantiser.recipe, self._quantiser
        if recipe.precision.mixed and recipe.divergence < math.inf:
            wide = bisect.fewest_wide(quantiser.sizes, self._alone, self._moved, recipe.divergence, self._progress)
            quantiser.wide = frozenset(wide)
        return bisect.fewest(self._damage, self._agrees, min_agreement, self._progress)

    def _open(self, high: tuple[str, ...]) -> Runner:
        folder = self._quantiser.trial(high, self._held.record).folder
        return open_bundle(str(folder), self._quantiser.name, self._held.threads)

    def _agrees(self, high: tuple[str, ...]) -> float:
        self.measured[high] = self._held.compare(self._open(high))
        self._progress(f"agreement with {len(high)} kept high", 1.0)
        return share(self.measured[high])

    def _alone(self, names: tuple[str, ...]) -> float:
        others = tuple(other for other in self._quantiser.names if other not in names)
        return moved(self._reference, self._open(others), self._held.samples[:OBSERVED])

    def _damage(self) -> dict[str, float]:
        ranks = {}
        for number, name in enumerate(self._quantiser.names):
            ranks[name] = self._alone((name,))
            self._progress("ranking what quantising each moves", (number + 1) / len(self._quantiser.names))
        return ranks

    def _moved(self, wide: tuple[str, ...]) -> float:
        self._quantiser.wide = wide
        return moved(self._reference, self._open(()), self._held.samples[: bisect.OBSERVED])
