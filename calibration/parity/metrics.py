"""Differences between two tensors, two sets of logits, and the visual tokens that two models make and keep.

Always all of them; gates are in ``result``. Of tokens: units merged alike, overlap of every prune, ties told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from luvc_export.calibration.runners.base import Kept  # its package imports torch, which a pack lacks

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How far a candidate tensor is from its reference; infinite where it cannot be said.

    Attributes:
        nonfinite: Elements that are NaN or infinite in the candidate but not in the reference.
        max_abs: Largest absolute difference.
        rel_l2: L2 norm of the difference by that of the reference.
        cosine: Cosine of the two, flattened.
        worst_row: The largest relative L2 difference of a row, rows weighed by the mean row norm.
    """

    nonfinite: int
    max_abs: float
    rel_l2: float
    cosine: float
    worst_row: float


def difference(reference: Floats, candidate: Floats) -> Difference:
    """Compare [rows, width] with [rows, width]; another shape counts as infinitely far."""
    bad = int((~np.isfinite(candidate) & np.isfinite(reference)).sum()) if reference.shape == candidate.shape else 0
    if bad or reference.shape != candidate.shape:
        return Difference(bad, np.inf, np.inf, -1.0, np.inf)
    left, right = reference.astype(np.float64), candidate.astype(np.float64)
    gap = right - left
    norm, other = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    rows = np.linalg.norm(gap, axis=-1)
    typical = float(np.linalg.norm(left, axis=-1).mean()) if left.size else 0.0
    return Difference(
        0,
        float(np.abs(gap).max(initial=0)),
        _ratio(float(np.linalg.norm(gap)), norm),
        float((left * right).sum()) / (norm * other) if norm and other else float(norm == other),
        _ratio(float(rows.max(initial=0)), typical),
    )


@dataclass(frozen=True)
class Prediction:
    """How far a candidate's predictions are from the reference's, over rows (positions).

    Attributes:
        rows: Number of positions.
        kl: Largest KL divergence of the candidate from the reference, in nats.
        agree: Positions where the candidate's most probable token is one of the reference's: logits in 16 bits are
            often equal.
        least_gap: Smallest gap, in logits, of the reference's two best tokens where they differ; 0 if none does.
        widest_gap: Where they do not agree, how far below its best logit the reference has the candidate's token at
            most, relative to the position's largest logit; 0 if all agree.
    """

    rows: int
    kl: float
    agree: int
    least_gap: float
    widest_gap: float


def prediction(reference: Floats, candidate: Floats) -> Prediction:
    """Compare logits [rows, vocab]."""
    rows = len(reference)
    if reference.shape != candidate.shape or not np.isfinite(candidate).all():
        return Prediction(rows, np.inf, 0, np.inf, np.inf)
    left, right = _log_softmax(reference), _log_softmax(candidate)
    kl = (np.exp(left) * (left - right)).sum(-1)
    best = reference.max(-1)
    gaps = best - np.take_along_axis(reference, candidate.argmax(-1)[:, None], -1)[:, 0]
    second = np.sort(reference, -1)[:, -2]
    least = (best - second)[gaps > 0].min(initial=np.inf)
    widest = (gaps / np.abs(reference).max(-1))[gaps > 0].max(initial=0)
    return Prediction(
        rows, float(kl.max(initial=0)), int((gaps == 0).sum()), float(least) if gaps.any() else 0.0, float(widest)
    )


def edit_distance(left: str, right: str) -> int:
    """Fewest insertions, deletions and replacements of characters from one text to the other (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else (0.0 if part == 0 else np.inf)


@dataclass(frozen=True)
class Overlap:
    """Agreement of one prune over all images of a case.

    Attributes:
        kept: Tokens the reference keeps.
        shared: Those the candidate keeps too.
        tied: Of the others, those that a tie explains: with each swap the scores of both tokens lie within the
            tolerance of the K-th score.
        after: Of the others, those at a prune after one, or after a merge, that already differed: another input.
        gap: Smallest gap between the K-th and the next score, relative to the K-th; None without scores.
    """

    kept: int
    shared: int
    tied: int
    after: int
    gap: float | None

    @property
    def unexplained(self) -> int:
        """Tokens the candidate should have kept, by any reading."""
        return self.kept - self.shared - self.tied - self.after


def overlaps(
    reference: Kept, candidate: Kept, scores: dict[int, NDArray[np.float32]], tie: float, parted: bool = False
) -> dict[int, Overlap]:
    """Overlap of each prune of one case.

    Args:
        reference: Prune -> kept tokens [G, keep].
        candidate: The same of the candidate.
        scores: Prune -> scores [G, N] of what entered it in ``reference`` (or ``candidate``), where known.
        tie: Largest relative distance of a score to the K-th one that rounding may bridge.
        parted: Whether the tokens differed before the first prune, because their units merged in another way.
    """
    by_layer: dict[int, Overlap] = {}
    entering: NDArray[np.int64] | None = None
    differs: set[int] = set(range(len(next(iter(reference.values()), ())))) if parted else set()
    for layer in sorted(reference):
        left, right = reference[layer], candidate.get(layer, np.zeros((len(reference[layer]), 0), np.int64))
        total = shared = tied = after = 0
        gaps = []
        for group, (mine, theirs) in enumerate(zip(left, right, strict=True)):
            lost, gained = np.setdiff1d(mine, theirs), np.setdiff1d(theirs, mine)
            total, shared = total + len(mine), shared + len(mine) - len(lost)
            known = layer in scores
            if known:
                values = scores[layer][group]
                names = np.arange(len(values)) if entering is None else entering[group]
                ranked = np.sort(values)[::-1]
                cut = abs(float(ranked[len(mine) - 1])) or 1.0
                if len(mine) < len(ranked):
                    gaps.append(float(ranked[len(mine) - 1] - ranked[len(mine)]) / cut)
            if group in differs:
                after += len(lost)
            elif len(lost):
                differs.add(group)
                if known:
                    swapped = np.abs(values[np.isin(names, [*lost, *gained])] - ranked[len(mine) - 1]) / cut
                    if len(lost) == len(gained) and (swapped <= tie).all():
                        tied += len(lost)
        by_layer[layer] = Overlap(total, shared, tied, after, min(gaps) if gaps else None)
        entering = left
    return by_layer


@dataclass(frozen=True)
class Alike:
    """Visual tokens that two models made of the very same units.

    Attributes:
        rows: Their places in each model, int64 [tokens alike, 2], of all images of a case one after the other.
        units: Units of the images, and how many of them are in such tokens.
    """

    rows: NDArray[np.int64]
    units: tuple[int, int]

    @property
    def all(self) -> bool:
        """Whether no unit merged otherwise."""
        return self.units[0] == self.units[1]


def alike(left: NDArray[np.int64] | None, right: NDArray[np.int64] | None) -> Alike | None:
    """Match visual tokens by their units: one that merged otherwise moves those after it in its row by a place.

    Args:
        left: Visual token of each unit, [images, H0 * W0]; below 0 where a bucket left it out.
        right: The same of the other model.

    Returns:
        None where either cannot tell.
    """
    if left is None or right is None or left.shape != right.shape or not left.size:
        return None
    rows, units = [], 0
    for image, pair in enumerate(zip(left, right, strict=True)):
        token_of = [{frozenset(np.flatnonzero(own == token)): token for token in range(own.max() + 1)} for own in pair]
        shared = sorted(
            (token_of[0][same], token_of[1][same], len(same)) for same in token_of[0].keys() & token_of[1].keys()
        )
        units += sum(size for _, _, size in shared) + int(((pair[0] < 0) & (pair[1] < 0)).sum())
        rows += [(image * len(token_of[0]) + one, image * len(token_of[1]) + other) for one, other, _ in shared]
    return Alike(np.array(rows, np.int64).reshape(-1, 2), (left.size, units))
