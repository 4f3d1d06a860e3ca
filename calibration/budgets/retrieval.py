"""Pairs of a query and a page, ranked under plans: does the model still find the pages it finds uncompressed?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, plan_key
from luvc_export.calibration.budgets.trials import shuffled
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.intervals import Interval
from luvc_export.calibration.pairs import Pairs, Retrieved, kept, ndcg
from luvc_export.calibration.runners.canvas import Grids, canvas
from luvc_export.core import tasks
from luvc_export.core.plan import Plan
from luvc_export.core.tasks import Embedding
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.llm.vectors import to_the_end
from luvc_export.export.options import Options
from luvc_export.export.reading.sentence_transformers import embedding_of, task_of


def canvas_of_task(checkpoint: Checkpoint, image_size: tuple[int, int], tiles: Grids, video: bool) -> Manifest:
    """What an export of a checkpoint says of its inputs, for the task that it is made for.

    Pages are stretched where every token has a vector or a part in the mean, as plans that compress are exported then.

    Raises:
        UsageError: It judges pairs, each by itself.
    """
    task = task_of(checkpoint, None)
    if tasks.find(task).decodes:
        return canvas(checkpoint, image_size, tiles=tiles, video=video)
    how = embedding_of(checkpoint, Options(image_size, task=task))
    if how.pair is not None:
        fix = "search a plan for the model that embeds the candidates"
        raise UsageError("a reranker ranks no set of pages", where="--data", got=f"the task {task}", fix=fix)
    shown = canvas(checkpoint, image_size, "pad" if how.pooling == "last" else "stretch", tiles)
    return dataclasses.replace(shown, task=task, embedding=how)


def finished(plan: Plan, how: Embedding | None) -> Plan:
    """A plan as it is exported for vectors."""
    return plan if how is None or how.pooling == "last" else to_the_end(plan, how, padded=False)


class PairsPart:
    """See ``part.Part``; what is asked are queries, and a query's answer is its NDCG@5 among the part's pages.

    Attributes:
        full: NDCG@5 of each query without compression.
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
        cases = [data.cases[index] for index in shuffled([case.picture for case in data.cases])]
        self.name, self.none, self.pairs = name, none, Pairs(cases, data.name)
        self.clusters, self.images = self.pairs.clusters, 1
        answers: list[list[int]] = [[] for _ in self.pairs.inputs]
        self._engine = PlanEvaluator(checkpoint, model, self.pairs.inputs, False, answers, image)
        self._how, self._store, self._asked = image.embedding, store, list[Any]()
        self.full = ndcg(self._scores(none), self.pairs.answers).tolist()
        self.pairs.check(self.retrieved(none))

    def _scores(self, plan: Plan) -> Any:
        """Scores [queries, pages]; what a query's vectors are, no plan changes."""

        def measure() -> list[list[float]]:
            own, pages, every = finished(plan, self._how), len(self.pairs.pages), len(self.pairs.inputs)
            self._asked = self._asked or self._engine.vectors(own, range(pages, every))
            return self.pairs.scores_of([*self._engine.vectors(own, range(pages)), *self._asked]).tolist()

        return np.array(self._store.of([self.name, "scores", plan_key(plan)], measure))

    def agrees(self, plan: Plan, some: range) -> list[float]:
        """NDCG@5 of each query of ``some``."""
        return ndcg(self._scores(plan), self.pairs.answers)[some.start : some.stop].tolist()

    def share(self, gains: Sequence[float]) -> Interval:
        """Share of the uncompressed NDCG@5 that the first queries keep."""
        return kept(gains, self.full[: len(gains)], self.clusters[: len(gains)])

    def retrieved(self, plan: Plan) -> Retrieved:
        """NDCG@5 and recall@5 under a plan."""
        return self.pairs.retrieved(self._scores(plan))

    @property
    def text(self) -> int:
        """Text tokens beside a page."""
        asked = self._engine.asked(self.none)[0]
        return len(asked.prompt) - len(asked.pictures)
