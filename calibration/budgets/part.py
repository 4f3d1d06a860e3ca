"""One part of a calibration set, asked under plans: does the model still say what it says uncompressed?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration import runners
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.budgets import freezing
from luvc_export.calibration.cases import Case
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.core.plan import Plan
from luvc_export.export.checkpoint import Checkpoint

#: Prompts in one call when the uncompressed model answers.
_BATCH = 16


class Part:
    """Questions and the uncompressed model's greedy answers to them.

    Args:
        name: For the store: ``calibration`` or ``held-out``.
        checkpoint: Where ``model`` is from.
        model: From ``runners.load_model``, fp32.
        data: Cases.
        image: What pictures are fitted to, and how they are cut.
        none: The uncompressed plan.
        store: Remembers the answers.

    Attributes:
        clusters: Cluster of each question. Pictures come in a shuffled order (always the same), so that the first
            questions stand for all.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        model: Any,
        data: CalibrationSet,
        image: Manifest,
        none: Plan,
        store: Store,
    ) -> None:
        self.name, self.none = name, none
        cases = [data.cases[index] for index in shuffled([case.picture for case in data.cases])]
        self.clusters = [case.picture for case in cases]
        answers = store.of([name, "answers"], lambda: _answers(checkpoint, model, cases, data, image, none))
        self.engine = PlanEvaluator(checkpoint, model, cases, data.stops, answers, image)
        self._uncompressed: list[Tensor] = []

    def agrees(self, plan: Plan, some: range) -> list[bool]:
        """Whether each question of ``some`` is answered, greedily, as without compression."""
        return self.engine.right(plan, some)

    def divergence(self, plan: Plan, count: int) -> float:
        """KL divergence of the predictions under ``plan`` from the uncompressed ones, nats a token.

        Mean over the tokens of the uncompressed answers to the first ``count`` questions.
        """
        some = range(min(count, len(self.clusters)))
        if len(self._uncompressed) < len(some):
            self._uncompressed = self.engine.predictions(self.none, some)
        return freezing.moved(self._uncompressed, self.engine.predictions(plan, some))

    @property
    def text(self) -> int:
        """Text tokens of the median prompt."""
        return self.engine.median_text(self.none)

    @property
    def images(self) -> int:
        """What shares a budget in the median prompt: images, or whole videos."""
        counts = [self.none.sharing.groups(len(asked.pictures)) for asked in self.engine.asked(self.none)]
        return max(1, int(np.median(counts)))


def shuffled(clusters: Sequence[int]) -> list[int]:
    """Indices of the questions, whole clusters in a random order that depends on nothing."""
    numbers = list(dict.fromkeys(clusters))
    ranks = dict(zip(numbers, np.random.default_rng(0).permutation(len(numbers)), strict=True))
    return sorted(range(len(clusters)), key=lambda index: ranks[clusters[index]])


def _answers(
    checkpoint: Checkpoint, model: Any, cases: list[Case], data: CalibrationSet, image: Manifest, none: Plan
) -> list[list[int]]:
    """Tokens of the uncompressed model's greedy answers; right answers that it gives need not be decoded one by one."""
    answers: list[list[int]] = [[] for _ in cases]
    left = list(range(len(cases)))
    if data.known and data.stops:
        engine = PlanEvaluator(checkpoint, model, cases, data.stops, image=image)
        right = engine.right(none)
        for index in left:
            answers[index] = engine.answers[index] if right[index] else []
        left = [index for index in left if not right[index]]
    runner = runners.open_torch(checkpoint, none, image, model=model)
    for first in range(0, len(left), _BATCH):
        some = left[first : first + _BATCH]
        for index, answer in zip(some, runner.answer([cases[i] for i in some], data.longest), strict=True):
            answers[index] = list(answer.tokens)
    return answers
