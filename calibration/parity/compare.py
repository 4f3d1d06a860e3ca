"""Run two models on the same cases and measure every difference. Nothing is judged here: see ``result``.

Where vectors are compared, so is the order in which one input's finds the others: what a search shows of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration import intervals
from luvc_export.calibration.cases import Case
from luvc_export.calibration.parity.metrics import (
    Difference,
    Overlap,
    Prediction,
    alike,
    difference,
    edit_distance,
    overlaps,
    prediction,
)
from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.calibration.runners.base import LOGITS, VECTORS, VISION, Kept, Observation, Runner, Said
from luvc_export.core.graph_io import ABSENT
from luvc_export.core.plan import EncoderPlan, Plan
from luvc_export.errors import Progress
from luvc_export.runtime.engine.embed import late_interaction


@dataclass(frozen=True)
class Measured:
    """Everything one case showed.

    Attributes:
        tensors: Difference of each tensor by name, in order of computation; with forced indices where the models
            chose others. Empty where that is impossible.
        prediction: Difference of the logits at every text position.
        overlap: Per prune, of what each model chooses by itself.
        forced: Whether the tensors come from a run with the other model's indices or visual tokens.
        merged: Units of the images, and how many are in tokens of the same units in both models; None without merges.
        vector: Difference of the vectors; None where answers are compared.
    """

    tensors: dict[str, Difference]
    prediction: Prediction | None
    overlap: dict[int, Overlap]
    forced: bool
    merged: tuple[int, int] | None = None
    vector: Difference | None = None


@dataclass(frozen=True)
class Answered:
    """Both greedy answers to one case. ``diverged`` is the first token that differs, None if none does."""

    kind: str
    picture: int
    prompt: str
    right: str | None
    reference: Said
    candidate: Said
    diverged: int | None
    edits: int


@dataclass(frozen=True)
class Comparison:
    """Two models on many cases.

    Attributes:
        same: Whether both have the same plan, so that every tensor should agree.
        stops: Whether a right answer must end.
        example: The candidate's observation of the first case with a picture, and that picture.
        ranks: How both order the cases by their vectors; None where answers are compared.
    """

    reference: Runner
    candidate: Runner
    same: bool
    stops: bool
    measured: list[Measured]
    answered: list[Answered]
    example: tuple[Case, Observation] | None = None
    notes: list[str] = field(default_factory=list)
    ranks: Ranks | None = None

    def right(self, who: str) -> list[bool]:
        """Whether each answer of ``who`` (``reference`` or ``candidate``) is right."""
        answers = [(getattr(item, who), item.right) for item in self.answered]
        return [
            answer.text.strip() == (right or "").strip() and (answer.ended or not self.stops)
            for answer, right in answers
        ]

    @property
    def known(self) -> bool:
        """Whether every case has a right answer."""
        return all(item.right is not None for item in self.answered)

    def retention(self) -> intervals.Interval:
        """Accuracy by the reference's; where no right answer is known, agreement with the reference's answers."""
        pictures = [item.picture for item in self.answered]
        if self.known:
            return intervals.retention(self.right("candidate"), self.right("reference"), pictures)
        return intervals.accuracy([item.edits == 0 for item in self.answered], pictures)


def compare(
    reference: Runner,
    candidate: Runner,
    cases: Sequence[Case],
    *,
    observe: int,
    longest: int,
    stops: bool = False,
    batch: int = 2,
    progress: Progress = lambda stage, done: None,
) -> Comparison:
    """Compare on ``cases``, the first ``observe`` of them tensor by tensor.

    Args:
        reference: What is trusted.
        candidate: What is not.
        cases: Questions.
        observe: How many are looked into.
        longest: Longest answer in tokens.
        stops: Whether a right answer must end.
        batch: Cases a call; above 1, so that every element of a batch is under test.
        progress: Told (stage, fraction done).
    """
    same = _effective(reference.plan) == _effective(candidate.plan)
    tie = tolerances(reference.dtype, candidate.dtype).tie.value
    measured: list[Measured] = []
    vectors: list[tuple[Any, Any]] = []
    example: tuple[Case, Observation] | None = None
    for first in range(0, observe, batch):
        some = cases[first : min(first + batch, observe)]
        observed, seen, pairs_of = _observe(reference, candidate, some, same, tie)
        measured += observed
        vectors += pairs_of
        example = example or next(((c, o) for c, o in zip(some, seen, strict=True) if o.first is not None), None)
        progress("tensors and tokens", (first + len(some)) / observe)
    answered: list[Answered] = []
    for first in range(0, 0 if vectors else len(cases), 16):
        some = cases[first : first + 16]
        pairs = zip(some, reference.answer(some, longest), candidate.answer(some, longest), strict=True)
        answered += [_answered(*pair) for pair in pairs]
        progress("answers", (first + len(some)) / len(cases))
    order = None
    if vectors:
        error = tolerances(reference.dtype, candidate.dtype).rel_l2.value
        left, right = (scores_of([pair[side] for pair in vectors]) for side in (0, 1))
        order = ranks(left, right, error)
    comparison = Comparison(reference, candidate, same, stops, measured, answered, example, ranks=order)
    return Comparison(**{**vars(comparison), "notes": _notes(comparison)})


def _effective(plan: Plan) -> Plan:
    """The plan without what names it, and without switches of things it does not do."""
    if plan.prunes_tokens:
        return dataclasses.replace(plan, schedule="list", topk_limit=None)
    encoder = EncoderPlan(plan.grid)
    if plan.encoder.merges:
        encoder = dataclasses.replace(plan.encoder, prune=None, bucket=0, padding=False)
    return Plan(encoder, plan.llm.unchosen(), plan.sharing.without_quota(), topk_limit=None)


def _observe(
    reference: Runner, candidate: Runner, cases: Sequence[Case], same: bool, tie: float
) -> tuple[list[Measured], list[Observation], list[tuple[Any, Any]]]:
    """What cases show, the candidate's observations, and the vectors of both, where there are any."""
    left, right = reference.observe(cases), candidate.observe(cases)
    seen, forced = right, False
    met = [alike(a.merged_into, b.merged_into) if same else None for a, b in zip(left, right, strict=True)]
    merged = [item is None or item.all for item in met]
    visual = [
        {
            name: (a.tensors[name], b.tensors[name])
            for name in a.tensors
            if name.startswith(VISION) and name in b.tensors
        }
        for a, b in zip(left, right, strict=True)
    ]
    comparable = [True] * len(cases)
    agree = [_same_kept(a.kept, b.kept) for a, b in zip(left, right, strict=True)]
    chosen = same and any(item.kept for item in left)
    overlap: list[dict[int, Overlap]] = [{} for _ in cases]
    if chosen:
        pairs = zip(left, right, merged, strict=True)
        overlap = [overlaps(a.kept, b.kept, a.scores or b.scores, tie, not whole) for a, b, whole in pairs]
    if not all(merged) or (chosen and not all(agree)):
        if candidate.can_force:
            right, forced = candidate.observe(cases, *_choices(left, chosen, not all(merged))), True
        elif reference.can_force:
            left, forced = reference.observe(cases, *_choices(right, chosen, not all(merged))), True
        else:
            comparable = [a and b for a, b in zip(agree, merged, strict=True)]
    result = []
    both = [(a.tensors, b.tensors) for a, b in zip(left, right, strict=True)]
    vectors = [(one[VECTORS], other[VECTORS]) for one, other in both if VECTORS in one]
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        pairs_of = {name: _rows(a, b, name) for name in a.tensors if name in b.tensors} if comparable[index] else {}
        units = met[index]
        for name, (one, other) in visual[index].items() if comparable[index] else ():
            pairs_of[name] = (one, other) if units is None else (one[units.rows[:, 0]], other[units.rows[:, 1]])
        tensors = {name: difference(*pair) for name, pair in pairs_of.items()}
        guess = prediction(*pairs_of[LOGITS]) if LOGITS in pairs_of else None
        vector = difference(*vectors[index]) if vectors else None
        merged_units = None if units is None else units.units
        result.append(Measured(tensors, guess, overlap[index], forced, merged_units, vector))
    return result, seen, vectors


def _choices(other: Sequence[Observation], kept: bool, features: bool) -> tuple[Any, Any]:
    """Arguments of ``observe`` that make a model go on from what the other chose."""
    return [item.kept for item in other] if kept else None, [item.features for item in other] if features else None


def _rows(left: Observation, right: Observation, name: str):  # type: ignore[no-untyped-def]
    """The tensor of both; only its text rows where the plans let in different numbers of visual tokens."""
    a, b = left.tensors[name], right.tensors[name]
    if name == LOGITS and a.shape[-1:] == b.shape[-1:]:
        absent = (np.abs(a / ABSENT - 1) < 0.01).all(0) | (np.abs(b / ABSENT - 1) < 0.01).all(0)  # -1e4, in bf16 -9984
        a, b = (a[:, ~absent], b[:, ~absent]) if absent.any() else (a, b)
    if a.shape == b.shape or name.startswith(VISION) or left.text != right.text:
        return a, b
    return a[-left.text :], b[-right.text :]


def _same_kept(left: Kept, right: Kept) -> bool:
    return left.keys() == right.keys() and all(
        (left[n].shape == right[n].shape and (left[n] == right[n]).all()) for n in left
    )


def _answered(case: Case, left: Said, right: Said) -> Answered:
    pairs = enumerate(zip(left.tokens, right.tokens, strict=False))
    diverged = next((i for i, (a, b) in pairs if a != b), None)
    if diverged is None and len(left.tokens) != len(right.tokens):
        diverged = min(len(left.tokens), len(right.tokens))
    return Answered(
        case.kind, case.picture, case.prompt, case.answer, left, right, diverged, edit_distance(left.text, right.text)
    )


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    skipped = sum(not item.tensors for item in comparison.measured)
    if skipped:
        notes.append(
            f"{skipped} of {len(comparison.measured)} cases kept other tokens and neither model takes forced indices:"
            " their tensors are not compared. Export with --debug-graph."
        )
    if comparison.ranks is not None and not comparison.ranks.pairs:
        notes.append(f"no two scores are further apart than {comparison.ranks.level:.3g}: their order is not judged.")
    if not comparison.same:
        notes.append("the plans differ: tensors are shown (text rows) and not judged; retention is.")
    return notes + ties_of_own(comparison.reference.plan, comparison.measured)


def ties_of_own(plan: Plan, measured: Sequence[Measured]) -> list[str]:
    """Where a score from outside this package gave the last kept and the first left token one value; a line a prune."""
    from luvc_export.export.compression import scores  # torch, which knows the scores that ``gap`` comes from

    name, notes = plan.llm.method.name, []
    for layer in sorted({layer for item in measured for layer in item.overlap}):
        gaps = [item.overlap[layer].gap for item in measured if layer in item.overlap]
        if (equal := gaps.count(0.0)) and name not in scores.built_in():
            notes.append(
                f"the score {name!r} ties: before layer {layer} the last token that stays and the first that leaves"
                f" have one value in {equal} of {len(gaps)} cases, and another back-end's rounding keeps others. Let"
                " the score tell tokens apart, by their place where by nothing else (docs/research.md)."
            )
    return notes


Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ranks:
    """How two models order the same inputs.

    Attributes:
        pairs: Pairs of inputs whose scores, of one query by the reference, are further apart than ``level``.
        alike: Those that the candidate orders as the reference does.
        level: Scores that are no further apart are of one level: their order is rounding.
    """

    pairs: int
    alike: int
    level: float


def scores_of(vectors: Sequence[Floats]) -> Floats:
    """Every input as a query for the others, float32 [N, N - 1]: products of vectors [1, D].

    Where a vector is one number it is the score, of one query, [1, N]; where there are many, [n, D], their sum of
    maxima is.
    """
    if any(len(one) > 1 for one in vectors):
        rows = [late_interaction(one, vectors) for one in vectors]
        return np.stack([np.delete(row, at) for at, row in enumerate(rows)])
    whole = np.concatenate([one.astype(np.float32) for one in vectors])
    if whole.shape[1] == 1:
        return whole.T
    others = ~np.eye(len(whole), dtype=bool)
    return np.asarray((whole @ whole.T)[others].reshape(len(whole), -1))


def ranks(reference: Floats, candidate: Floats, error: float) -> Ranks:
    """Compare the order of scores [queries, N].

    Args:
        reference: What is trusted.
        candidate: What is not; a score that is not finite is ordered as nothing is.
        error: Largest relative L2 error of a vector. Two vectors that are off by it each move a product by twice that.
    """
    level = 2 * error * float(np.abs(reference).max(initial=0))
    left, right = (scores[:, :, None] - scores[:, None, :] for scores in (reference, candidate))
    apart = left > level
    return Ranks(int(apart.sum()), int((apart & (right > 0)).sum()), level)
