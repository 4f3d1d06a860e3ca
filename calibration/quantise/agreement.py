"""What quantising changes, as parity sees it: answers that differ, and how far predictions move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luvc_export.calibration.cases import Case
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.parity.compare import Comparison, compare
from luvc_export.calibration.parity.metrics import prediction
from luvc_export.calibration.runners.base import LOGITS, Encoded, Forced, Observation, Runner, Said
from luvc_export.core.progress import Progress

#: Cases whose predictions rank the sites.
OBSERVED = 8


class Remembered:
    """A runner that is asked the same cases again and again but answers once; see ``runners.base.Runner``."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.name, self.dtype, self.plan, self.can_force = runner.name, runner.dtype, runner.plan, runner.can_force
        self._said: dict[tuple[int, ...], list[Said]] = {}
        self._seen: dict[tuple[int, ...], list[Observation]] = {}

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


def share(comparison: Comparison) -> float:
    """Share of answers with the same text."""
    return float(np.mean([item.edits == 0 for item in comparison.answered]))


def moved(reference: Runner, candidate: Runner, cases: Sequence[Case]) -> float:
    """How far predictions move: KL divergence at the worst text position of a case in nats, mean over cases."""
    pairs = zip(reference.observe(cases), candidate.observe(cases), strict=True)
    return float(np.mean([prediction(one.tensors[LOGITS], other.tensors[LOGITS]).kl for one, other in pairs]))
