"""Differences between two tensors, and between two sets of logits. Always all of them; gates are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        agree: Positions with the same most probable token.
        least_gap: Smallest gap, in logits, of the reference's two best tokens where they differ; 0 if none does.
    """

    rows: int
    kl: float
    agree: int
    least_gap: float


def prediction(reference: Floats, candidate: Floats) -> Prediction:
    """Compare logits [rows, vocab]."""
    rows = len(reference)
    if reference.shape != candidate.shape or not np.isfinite(candidate).all():
        return Prediction(rows, np.inf, 0, np.inf)
    left, right = _log_softmax(reference), _log_softmax(candidate)
    kl = (np.exp(left) * (left - right)).sum(-1)
    same = reference.argmax(-1) == candidate.argmax(-1)
    best = np.sort(reference, -1)[:, -2:]
    gaps = (best[:, 1] - best[:, 0])[~same]
    return Prediction(
        rows, float(kl.max(initial=0)), int(same.sum()), float(gaps.min(initial=np.inf)) if len(gaps) else 0.0
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
