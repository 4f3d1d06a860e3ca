"""Prune and restore of units inside the encoder, in static shapes.

The idea is IPCV's (arXiv 2512.18747): a removed unit is its state when it left plus the mean change since of the kept
units that were nearest to it then. Written here as one matrix per image, made once, that restores by one product:
rows of kept units pick themselves. No scatter, no sort, no data-dependent shape (the form is ours).

Shapes: n images, U units, K kept, F values of a unit (its patches side by side).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.export.compression import spu


class Kept(NamedTuple):
    """What a prune kept.

    Attributes:
        chosen_at: Kept units in the order of the tower, ascending, int64 [n, K].
        before: All units when it happened [n, U, F].
        chosen: The kept of them [n, K, F].
        restore: fp32 [n, U, K]: changes of kept units that each unit takes; None where nothing is restored.
    """

    chosen_at: Tensor
    before: Tensor
    chosen: Tensor
    restore: Tensor | None


def score(prune: EncoderPrune, normed: Tensor, moved: Tensor, basis: Tensor | None) -> Tensor:
    """Score of every unit, fp32 [n, U], in the order of ``normed``.

    Args:
        prune: Which score.
        normed: Units after the norm of what reads them next [n, U, F].
        moved: What the block added to them [n, U, F].
        basis: Of ``residual``: orthonormal low frequencies [U, m], rows in the order of ``normed``.
    """
    values = (moved if prune.score == "change" else normed).float()
    if prune.score == "residual":
        assert basis is not None
        values = values - basis @ (basis.T @ values)
    return (values * values).sum(-1)


def padding_last(scores: Tensor, sizes: Tensor, half: float) -> Tensor:
    """Scores in which units of padding stand below all, the first of them least; ``sizes`` fp32 [n, U] tell them."""
    place = torch.arange(1, scores.shape[1] + 1, dtype=torch.float32)
    return scores - (sizes < half).float() * (scores.shape[1] + 1 - place) * spu.PADDING_STEP


def select(scores: Tensor, quotas: Sequence[tuple[int, int, int]]) -> Tensor:
    """Indices int64 [n, K], ascending, of the best units of every quota.

    Args:
        scores: [n, U].
        quotas: (parts, units of each, kept of each) of equal parts side by side.
    """
    indices, begin = [], 0
    for parts, units, keep in quotas:
        inside = scores[:, begin : begin + parts * units].unflatten(1, (parts, units))
        first = begin + units * torch.arange(parts)
        indices.append((spu.select(inside, keep) + first[:, None]).flatten(1))
        begin += parts * units
    return torch.cat(indices, 1) if len(indices) > 1 else indices[0]


def rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of [n, U, ...] at ``index`` [n, K]: one flat gather."""
    units = values.shape[1]
    flat = (index + units * torch.arange(index.shape[0])[:, None]).flatten()
    return values.flatten(0, 1).index_select(0, flat).reshape(-1, index.shape[1], *values.shape[2:])


def prune(values: Tensor, index: Tensor, how: EncoderPrune) -> Kept:
    """Cut [n, U, F] to the kept units.

    Args:
        values: All units.
        index: From ``select``.
        how: How many neighbours a removed unit takes after, at most all; whether any comes back or is still seen.
    """
    chosen = rows(values, index)
    if how.restore == "none" and not how.stabilise:
        return Kept(index, values, chosen, None)
    wide, narrow = values.float(), chosen.float()
    near = 2 * wide @ narrow.transpose(1, 2) - (narrow * narrow).sum(-1)[:, None, :]
    least = torch.topk(near, min(how.neighbours, index.shape[1])).values[:, :, -1:]
    takes = (near >= least).float()
    itself = (torch.arange(values.shape[1])[:, None] == index[:, None, :]).float()
    share = takes / takes.sum(-1, keepdim=True)
    return Kept(index, values, chosen, itself + share * (1 - itself.sum(-1, keepdim=True)))


def restored(kept: Kept, values: Tensor) -> Tensor:
    """All units [n, U, F] from what the kept ones have become [n, K, F]."""
    assert kept.restore is not None
    change = kept.restore @ (values - kept.chosen).float()
    return (kept.before.float() + change).to(values.dtype)
