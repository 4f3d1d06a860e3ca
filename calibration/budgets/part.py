"""Parts of a calibration set, asked under plans: does the model still say what it says uncompressed?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration import intervals, runners
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.budgets import freezing
from luvc_export.calibration.budgets.trials import agreement, shuffled
from luvc_export.calibration.cases import Case
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.intervals import Interval
from luvc_export.calibration.runners.base import ends
from luvc_export.calibration.runners.canvas import Tokens
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint

#: Prompts in one call when the uncompressed model answers.
_BATCH = 16

#: Indices of the questions that count, of cases and of the tokens that the uncompressed model answers.
Choose = Callable[[Sequence[Case], Sequence[Sequence[int]]], Sequence[int]]


class Part:
    """Questions and the uncompressed model's greedy answers to them.

    ``model`` is from ``runners.load_model``, in fp32; pictures are fitted to ``image`` and cut as it says; ``store``
    remembers the answers, and ``choose`` leaves questions out when they are answered.

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
        choose: Choose | None = None,
    ) -> None:
        self.name, self.none = name, none
        cases = [data.cases[index] for index in shuffled([case.picture for case in data.cases])]
        answers = store.of([name, "answers"], lambda: _answers(checkpoint, model, cases, data, image, none))
        if choose is not None:
            counted = choose(cases, answers)
            cases, answers = [cases[index] for index in counted], [answers[index] for index in counted]
        self.clusters = [case.picture for case in cases]
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


@dataclass(frozen=True)
class Answered:
    """How the uncompressed model answers the calibration part, where right answers are known.

    Attributes:
        accuracy: Of all questions.
        chance: Share that would be right if its answers were dealt among the questions of a kind, or among all.
        kinds: What is asked on: kinds of questions that it answers better than that.
        left_out: The others.
    """

    accuracy: Interval
    chance: Interval
    kinds: tuple[str, ...]
    left_out: tuple[str, ...]


def chance(answers: Sequence[str], labels: Sequence[str]) -> float:
    """Share of questions right if each were given the answer to another one at random; 0 for a question alone."""
    count, dealt = len(answers), Counter(labels)
    alike = sum(dealt[answer] for answer in answers)
    own = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    return (alike - own) / (count * (count - 1)) if count > 1 else 0.0


def compared(cases: Sequence[Case], answers: Sequence[str], name: str) -> Answered:
    """What the model answers better than chance.

    Raises:
        UsageError: It answers nothing better.
    """
    labels = [str(case.answer).strip() for case in cases]
    right = [answer == label for answer, label in zip(answers, labels, strict=True)]
    accuracy = agreement(right, [case.picture for case in cases])
    luck, better = 0.0, {}
    for kind in sorted({case.kind for case in cases}):
        some = [index for index, case in enumerate(cases) if case.kind == kind]
        lucky = chance([answers[index] for index in some], [labels[index] for index in some])
        own = agreement([right[index] for index in some], [cases[index].picture for index in some])
        luck += lucky * len(some) / len(cases)
        better[kind] = own.low > lucky
    kinds = tuple(kind for kind, fits in better.items() if fits)
    dealt = intervals.accuracy([max(luck, chance(answers, labels))] * len(cases), range(len(cases)))
    low = min(accuracy.low, agreement(right, range(len(right))).low)  # few pictures alike by luck narrow the first
    if low <= dealt.high or not kinds:
        raise UsageError(
            "without compression the model answers this data no better than chance, so no profile of it says anything",
            where=name,
            got=f"accuracy {accuracy.text(4)} on {len(cases)} questions",
            expected=f"a lower end above {dealt.high:.4f}: its answers dealt to other questions get {dealt.text(4)}",
            fix="see that each answer belongs to its question, and that the model answers such: luvc-export run",
        )
    return Answered(accuracy, dealt, kinds, tuple(kind for kind, fits in better.items() if not fits))


class Chooser:
    """Leaves out what the uncompressed model answers wrong, or no better than chance in the part that comes first."""

    def __init__(self, checkpoint: Checkpoint, data: CalibrationSet, image: Manifest, model: Any) -> None:
        self.data, self.tokens = data, Tokens(checkpoint, image.prompt)
        self.ends = ends(model.generation_config.eos_token_id)
        self.answered: Answered | None = None

    def __call__(self, cases: Sequence[Case], answers: Sequence[Sequence[int]]) -> list[int]:
        """See ``Choose``; the first call compares with chance.

        Raises:
            UsageError: The model answers nothing better than chance, or nothing that counts in the other part.
        """
        ended = [not self.data.stops or (len(answer) > 0 and answer[-1] in self.ends) for answer in answers]
        texts = [self.tokens.decode(a).strip() if end else "" for a, end in zip(answers, ended, strict=True)]
        if self.answered is None:
            self.answered = compared(cases, texts, self.data.name)
        counted = [
            index
            for index, (case, text) in enumerate(zip(cases, texts, strict=True))
            if text == str(case.answer).strip() and case.kind in self.answered.kinds
        ]
        if not counted:
            raise UsageError(
                "without compression the model answers no question of the held-out part that counts",
                where=self.data.name,
                got=f"{len(cases)} questions, of kinds {', '.join(sorted({case.kind for case in cases}))}",
                expected=f"right answers to some of {', '.join(self.answered.kinds)}, as in the other part",
                fix="every kind of question about as many pictures (every second picture is held out)",
            )
        return counted


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
