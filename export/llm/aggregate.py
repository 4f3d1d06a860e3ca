"""One aggregate row for what a prune drops (``Plan.aggregate``): the mean of the dropped rows, by their sizes.

The idea is QuietPrune's (CVPR'26: one token for the pruned ones); where it stands and what later prunes do with it is
ours. A span holds at most one aggregate a group, its last row. The next prune ranks the other rows, and what it drops
joins the aggregate that is there, so that sizes always add up to those of all rows that left the encoder.

It stands at the mean position of what it is made of, by size and not rounded, as merged units do in the encoder. Its
logical order is that of the last of them: what came before one of them does not see that one through the mean.

Shapes: B rows of a batch, G groups, N rows of a group that enter a prune, K chosen ones, A position axes, D channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import mark, sums


class Mass(NamedTuple):
    """What prunes with aggregates must know of every row of the span: its size and where it stands.

    Attributes:
        values: Size, then position on each axis, fp32 [B, G * N, 1 + A].
    """

    values: Tensor

    @classmethod
    def of(cls, sizes: Tensor, positions: Tensor) -> Mass:
        """From sizes fp32 [B, G * N] and positions fp32 [A, B, G * N]."""
        return cls(torch.cat([sizes[:, :, None], positions.permute(1, 2, 0)], 2))


class Dropped:
    """The rows that one prune drops.

    Args:
        chosen: Rows that stay, int64 [B, G, K].
        rows: N.
        mass: Of every row.
    """

    def __init__(self, chosen: Tensor, rows: int, mass: Mass) -> None:
        self.groups, self.rows, self.chosen = chosen.shape[1], rows, chosen.shape[2]
        self.flat = spu.flat_index(chosen, rows)
        self.gone = 1 - mark(chosen, rows)
        weights = self.gone * mass.values[:, :, 0].unflatten(1, (self.groups, rows))
        self.total = sums(weights[:, :, None])
        self.share = weights / self.total

    def mean(self, values: Tensor) -> Tensor:
        """Mean by size of the dropped rows of [B, G * N, D], fp32 [B, G, D]."""
        return (self.share[:, :, None] @ values.unflatten(1, (self.groups, self.rows)).float())[:, :, 0]

    def reduced(self, values: Tensor) -> Tensor:
        """Chosen rows of [B, G * N, D], and after each group's the mean of the dropped: [B, G * (K + 1), D]."""
        return self.beside(values, self.mean(values).to(values.dtype))

    def beside(self, values: Tensor, aggregate: Tensor) -> Tensor:
        """Chosen rows of [B, G * N, ...], and after each group's its row of ``aggregate`` [B, G, ...]."""
        kept = spu.gather(values, self.flat, self.groups, self.rows, self.chosen)
        return torch.cat([kept.unflatten(1, (self.groups, self.chosen)), aggregate[:, :, None]], 2).flatten(1, 2)

    def last_order(self, order: Tensor) -> Tensor:
        """The largest order int64 [B, G * N] of a dropped row, [B, G]. Exact in fp32 below 2^24 tokens."""
        batch, rows = order.shape[0], self.rows
        after = (order + 1).unflatten(1, (self.groups, rows)).float() * self.gone
        last = after.reshape(batch * self.groups, rows).amax(1).reshape(batch, self.groups)
        return last.to(torch.int64) - 1

    def reduced_mass(self, mass: Mass) -> tuple[Mass, Tensor]:
        """Mass of the rows that are left, and the aggregates' positions fp32 [A, B, G].

        An aggregate's size is the sum of what it is made of.
        """
        places = self.mean(mass.values)[:, :, 1:]
        return Mass(self.beside(mass.values, torch.cat([self.total, places], 2))), places.permute(2, 0, 1)
