"""What quantising changes, as parity sees it: answers that differ, and how far predictions move.

Of bundles that embed: pages that queries find no more, and how far vectors move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luvc_export.calibration.cases import Case
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.intervals import Floats, Interval
from luvc_export.calibration.pairs import Pairs, Retrieved, kept, ndcg
from luvc_export.calibration.parity.compare import Comparison, compare
from luvc_export.calibration.parity.metrics import difference, prediction
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
