"""Which of the rows [visual | text] a layer works on, and what becomes of the others, which give keys and values alone.

A layer ``kv_only`` works on the text and, of a plan that has sampled tokens (``LlmPlan.sampled``, ours), on a few of
each group's visual tokens: all move by the mean of what the layer adds to these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Working(NamedTuple):
    """Rows of a layer: ``groups`` spans of ``tokens``, of which ``sampled`` of each work, then those that all do."""

    groups: int = 0
    tokens: int = 0
    sampled: int = 0

    @property
    def still(self) -> Any:
        """Rows at the front that do not work, or not all: an int, or a symbol of a trace."""
        return self.groups * self.tokens

    def places(self) -> Tensor:
        """Where in a span the sampled ones are, at equal distances: int64 [sampled]."""
        return (2 * torch.arange(self.sampled) + 1) * self.tokens // (2 * self.sampled)

    def of(self, rows: Tensor, axis: int = 1) -> Tensor:
        """The rows that work, of all along ``axis``."""
        before = (slice(None),) * axis
        text = rows[(*before, slice(self.still, None))]
        if not self.sampled:
            return text
        spans = rows[(*before, slice(None, self.still))].unflatten(axis, (self.groups, self.tokens))
        return torch.cat([spans.index_select(axis + 1, self.places()).flatten(axis, axis + 1), text], axis)

    def after(self, entered: Tensor, left: Tensor, padding: Tensor | None = None) -> Tensor:
        """All rows [B, S, D] behind a layer: those that ``entered`` it, of which ``of`` them ``left`` it so.

        ``padding``, bool [B, groups, tokens], says whose change does not count.
        """
        if not self.sampled:
            return torch.cat([entered[:, : self.still], left], 1)
        sampled = self.groups * self.sampled
        change = (left - self.of(entered))[:, :sampled].unflatten(1, (self.groups, self.sampled))
        if padding is None:
            mean = change.float().mean(2, keepdim=True)
        else:
            counts = (~padding).index_select(2, self.places()).float()[..., None]
            mean = (change.float() * counts).sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp(min=1)
        moved = entered[:, : self.still].unflatten(1, (self.groups, self.tokens)) + mean.to(left.dtype)
        return torch.cat([moved.flatten(1, 2), left[:, sampled:]], 1)
