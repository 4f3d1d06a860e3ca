"""Pairs of a query and a page that answers it: how well a model finds the pages, by NDCG@5 and recall.

Every query ranks every page of its set. A page answers a query where some case pairs the two, also in other words'
company: of cases with one prompt all pages count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration import intervals
from luvc_export.calibration.cases import Case
from luvc_export.calibration.intervals import Floats, Interval
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.embed import late_interaction
from luvc_export.runtime.prompt.case_lines import FileCase

#: Pages of a ranking that count.
TOP = 5
#: Times that pages are dealt to other queries, for what is found by chance.
_DEALT = 20

Bools = NDArray[np.bool_]
Vectors = Sequence[NDArray[np.float32]]


def ndcg(scores: Floats, answers: Bools, top: int = TOP) -> Floats:
    """NDCG of the first ``top`` pages for each query (Jarvelin and Kekalainen 2002, relevance 0 or 1), [queries].

    Args:
        scores: [queries, pages]; equal ones are ordered as pages are.
        answers: Which pages answer a query, one at least.
        top: Pages that count.
    """
    discount = 1 / np.log2(np.arange(2, 2 + min(top, scores.shape[1])))
    gains = (_first(scores, answers, top) * discount).sum(1)
    best = np.array([discount[: min(top, count)].sum() for count in answers.sum(1)])
    return np.asarray(gains / best)


def recall(scores: Floats, answers: Bools, top: int = TOP) -> Floats:
    """Share of a query's pages, of so many as fit, that are among its first ``top``, [queries]; as ``ndcg``."""
    return np.asarray(_first(scores, answers, top).sum(1) / np.minimum(answers.sum(1), top))


def _first(scores: Floats, answers: Bools, top: int) -> Bools:
    return np.take_along_axis(answers, np.argsort(-scores, axis=1, kind="stable")[:, :top], 1)


def kept(gains: Sequence[float] | Floats, full: Sequence[float] | Floats, clusters: Sequence[int]) -> Interval:
    """Share of the uncompressed model's NDCG that is kept on the same queries.

    Where no query loses, the interval is that of one lost whole: ``intervals.retention`` would prove all of nothing.
    """
    values, whole = np.asarray(gains, np.float64), np.asarray(full, np.float64)
    interval = intervals.retention(values, whole, clusters)
    if len(values) and (values >= whole).all():
        worst = np.where(np.arange(len(whole)) == whole.argmax(), 0.0, whole)
        return Interval(interval.value, intervals.retention(worst, whole, clusters).low, interval.high)
    return interval


@dataclass(frozen=True)
class Retrieved:
    """What is found of pairs: NDCG@5 and recall@5 with 95 % intervals, by chance too (pages dealt to other queries)."""

    ndcg: Interval
    recall: Interval
    chance: Interval

    def text(self) -> str:
        """For people."""
        return f"NDCG@{TOP} {self.ndcg.text(4)}, recall@{TOP} {self.recall.text(4)}"


class Pairs:
    """Queries and pages of a set of cases.

    Args:
        cases: A query (``prompt``) and the one picture that answers it, each.
        where: The set's name.

    Attributes:
        clusters: Of each query, the page that it was paired with.
        answers: Which pages answer a query, bool [queries, pages].

    Raises:
        UsageError: A case has no query, or not one picture.
    """

    def __init__(self, cases: Sequence[Case], where: str) -> None:
        self.where = where
        for number, case in enumerate(cases):
            if len(case.images) != 1 or getattr(case, "video", None) or not case.prompt:
                raise UsageError(
                    "a bundle that embeds is measured on pairs of a query and a page",
                    where=f"{where}: case {number}",
                    got=f"{len(case.images)} pictures, a prompt of {len(case.prompt)} letters",
                    expected="one picture, and the query that it answers as prompt",
                )
        shown = {case.picture: case.images for case in cases}
        places = {picture: place for place, picture in enumerate(shown)}
        self.queries = [FileCase((), case.prompt) for case in cases]
        self.pages = [FileCase(tuple(images), "") for images in shown.values()]
        self.clusters = [case.picture for case in cases]
        paired: dict[str, set[int]] = {}
        for case in cases:
            paired.setdefault(case.prompt, set()).add(places[case.picture])
        self.answers = np.zeros((len(cases), len(shown)), np.bool_)
        for row, case in enumerate(cases):
            self.answers[row, sorted(paired[case.prompt])] = True

    @cached_property
    def inputs(self) -> list[FileCase]:
        """Pages, and each query once."""
        return [*self.pages, *{case.prompt: case for case in self.queries}.values()]

    @property
    def samples(self) -> list[FileCase]:
        """Pages and queries by turns."""
        return [one for case, page in zip(self.queries, self.pages, strict=False) for one in (page, case)]

    def scores_of(self, vectors: Vectors) -> Floats:
        """Float64 [queries, pages] of the vectors float32 [n, D] of each of ``inputs``."""
        pages, asked = vectors[: len(self.pages)], vectors[len(self.pages) :]
        texts = (case.prompt for case in self.inputs[len(pages) :])
        rows = {text: late_interaction(one, pages) for text, one in zip(texts, asked, strict=True)}
        return np.stack([rows[case.prompt] for case in self.queries]).astype(np.float64)

    def retrieved(self, scores: Floats) -> Retrieved:
        """NDCG@5, recall@5 and chance of scores [queries, pages]."""
        gains, hits = (intervals.accuracy(one(scores, self.answers), self.clusters) for one in (ndcg, recall))
        dealt = float(np.mean([ndcg(scores, answers).mean() for answers in self._dealt()]))
        return Retrieved(gains, hits, intervals.accuracy([dealt] * len(scores), range(len(scores))))

    def _dealt(self) -> Iterator[Bools]:
        rng = np.random.default_rng(0)
        for _ in range(_DEALT):
            yield self.answers[:, rng.permutation(self.answers.shape[1])]

    def check(self, retrieved: Retrieved) -> None:
        """Refuse pairs that the uncompressed model finds no better than pages dealt to other queries.

        Raises:
            UsageError: It does.
        """
        if retrieved.ndcg.low <= retrieved.chance.high:
            raise UsageError(
                "without compression the model finds these pages no better than chance, so no figure of them says"
                " anything",
                where=self.where,
                got=f"{retrieved.text()} of {len(self.queries)} queries and {len(self.pages)} pages",
                expected=f"a lower end above {retrieved.chance.high:.4f}: pages dealt to other queries get"
                f" {retrieved.chance.text(4)}",
                fix="see that each query stands beside its page, and that the model finds such: luvc-export search",
            )
