"""Which visual tokens two models make and keep: units merged alike, overlap of every prune, with ties told apart."""

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
        left: Visual token of each unit, [images, H0 * W0].
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
        units += sum(size for _, _, size in shared)
        rows += [(image * len(token_of[0]) + one, image * len(token_of[1]) + other) for one, other, _ in shared]
    return Alike(np.array(rows, np.int64).reshape(-1, 2), (left.size, units))
