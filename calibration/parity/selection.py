"""Which visual tokens two models keep: overlap of every prune, with ties told apart by the score gap at place K."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.runners.base import Kept


@dataclass(frozen=True)
class Overlap:
    """Agreement of one prune over all images of a case.

    Attributes:
        kept: Tokens the reference keeps.
        shared: Those the candidate keeps too.
        tied: Of the others, those that a tie explains: with each swap the scores of both tokens lie within the
            tolerance of the K-th score.
        after: Of the others, those at a prune after one that already differed: the input was another one.
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
    reference: Kept, candidate: Kept, scores: dict[int, NDArray[np.float32]], tie: float
) -> dict[int, Overlap]:
    """Overlap of each prune of one case.

    Args:
        reference: Prune -> kept tokens [G, keep].
        candidate: The same of the candidate.
        scores: Prune -> scores [G, N] of what entered it in ``reference`` (or ``candidate``), where known.
        tie: Largest relative distance of a score to the K-th one that rounding may bridge.
    """
    found: dict[int, Overlap] = {}
    entering: NDArray[np.int64] | None = None
    differs: set[int] = set()
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
        found[layer] = Overlap(total, shared, tied, after, min(gaps) if gaps else None)
        entering = left
    return found
