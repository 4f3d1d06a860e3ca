"""In which order one input's vector finds the others: what a search shows of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.engine.embed import late_interaction

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
