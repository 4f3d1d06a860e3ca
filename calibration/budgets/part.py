"""One part of a calibration set, asked under plans: does the model still say what it says uncompressed?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import ImageInput
from luvc_export.calibration import runners
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.cases import FileCase
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.core.plan import Plan
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.runtime.media.preprocess import preprocess

#: Prompts in one call when the uncompressed model answers.
_BATCH = 16


class Part:
    """Questions and the uncompressed model's greedy answers to them.

    Args:
        name: For the store: ``calibration`` or ``held-out``.
        checkpoint: Where ``model`` is from.
        model: From ``runners.load_model``, fp32.
        data: Cases.
        image: What pictures are fitted to.
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
        image: ImageInput,
        none: Plan,
        store: Store,
    ) -> None:
        self.name = name
        order = shuffled([case.picture for case in data.cases])
        cases = fitted(data, order, image)
        self.clusters = [case.picture for case in cases]
        answers = store.of([name, "answers"], lambda: _answers(checkpoint, model, cases, data, image, none))
        self.engine = PlanEvaluator(checkpoint, model, cases, data.stops, answers)

    def agrees(self, plan: Plan, some: range) -> list[bool]:
        """Whether each question of ``some`` is answered, greedily, as without compression."""
        return self.engine.right(plan, some)

    @property
    def text(self) -> int:
        """Text tokens of the median prompt."""
        return int(np.median([len(asked.prompt) - len(asked.pictures) for asked in self.engine.asked]))

    @property
    def images(self) -> int:
        """Pictures of the median prompt."""
        return max(1, int(np.median([len(asked.pictures) for asked in self.engine.asked])))


def shuffled(clusters: Sequence[int]) -> list[int]:
    """Indices of the questions, whole clusters in a random order that depends on nothing."""
    numbers = list(dict.fromkeys(clusters))
    ranks = dict(zip(numbers, np.random.default_rng(0).permutation(len(numbers)), strict=True))
    return sorted(range(len(clusters)), key=lambda index: ranks[clusters[index]])


def fitted(data: CalibrationSet, order: Sequence[int], image: ImageInput) -> list[FileCase]:
    """Cases in ``order``, their pictures as a bundle's runtime would hand them to the graph, equal ones one array."""
    known: dict[str, NDArray[np.uint8]] = {}
    cases = []
    for index in order:
        case = data.cases[index]
        for key, picture in zip(data.pixels[index], case.images, strict=True):
            if key not in known:
                known[key] = preprocess(picture, image).pixels[0]
        images: Any = tuple(known[key] for key in data.pixels[index])
        cases.append(FileCase(images, case.prompt, case.answer, case.kind, case.picture))
    return cases


def _answers(
    checkpoint: Checkpoint, model: Any, cases: list[FileCase], data: CalibrationSet, image: ImageInput, none: Plan
) -> list[list[int]]:
    """Tokens of the uncompressed model's greedy answers; right answers that it gives need not be decoded one by one."""
    answers: list[list[int]] = [[] for _ in cases]
    left = list(range(len(cases)))
    if data.known and data.stops:
        engine = PlanEvaluator(checkpoint, model, cases, data.stops)
        right = engine.right(none)
        for index in left:
            answers[index] = engine.asked[index].answer if right[index] else []
        left = [index for index in left if not right[index]]
    runner = runners.open_torch(checkpoint, none, image, model=model)
    for first in range(0, len(left), _BATCH):
        some = left[first : first + _BATCH]
        for index, said in zip(some, runner.answer([cases[i] for i in some], data.longest), strict=True):
            answers[index] = list(said.tokens)
    return answers
