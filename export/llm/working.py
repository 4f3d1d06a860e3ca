"""Which of the rows [visual | text] a layer works on, and what becomes of the others, which give keys and values alone.

A layer ``kv_only`` works on the text and on some of each group's visual tokens. Of a plan with ``LlmPlan.turns`` (ours)
every so many-th does, in turns from layer to layer, and each of the others moves by what the layer adds to those that
are most like it: the Nadaraya-Watson estimate, whose kernel is the exponential of a cosine. In older plans a few are
sampled (``LlmPlan.sampled``, ours), by whose mean change all move.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from luvc_export.core.plan import LlmPlan

#: What the cosine of two rows is divided by before its exponential: 0.03 to 0.2 explain as much of what layers add, 0.4
#: less (docs/results/stripes.md).
WIDTH = 0.15
#: What is added to a token's likeness to itself, and taken from that to padding.
_SURE = 1e4


class Working(NamedTuple):
    """Rows of a layer: ``groups`` spans of ``tokens``, of which those at ``places`` work, then those that all do."""

    groups: int = 0
    tokens: int = 0
    places: tuple[int, ...] = ()
    by_likeness: bool = False

    @property
    def still(self) -> Any:
        """Rows at the front that do not work, or not all: an int, or a symbol of a trace."""
        return self.groups * self.tokens

    def partly(self, plan: LlmPlan, number: int) -> Working:
        """The rows of layer ``number``, whose visual tokens give keys and values alone, but for those of ``plan``."""
        sampled = ((2 * n + 1) * self.tokens // (2 * plan.sampled) for n in range(plan.sampled))
        places = range(plan.turn(number), self.tokens, plan.turns) if plan.turns else sampled
        return self._replace(places=tuple(places), by_likeness=plan.turns > 0)

    def _some(self, spans: Tensor, axis: int) -> Tensor:
        """Of spans the rows at ``places`` along ``axis``."""
        return spans.index_select(axis, torch.tensor(self.places))

    def of(self, rows: Tensor, axis: int = 1) -> Tensor:
        """The rows that work, of all along ``axis``."""
        before = (slice(None),) * axis
        text = rows[(*before, slice(self.still, None))]
        if not self.places:
            return text
        spans = rows[(*before, slice(None, self.still))].unflatten(axis, (self.groups, self.tokens))
        return torch.cat([self._some(spans, axis + 1).flatten(axis, axis + 1), text], axis)

    def after(self, entered: Tensor, left: Tensor, padding: Tensor | None = None) -> Tensor:
        """All rows [B, S, D] behind a layer: those that ``entered`` it, of which ``of`` them ``left`` it so.

        ``padding``, bool [B, groups, tokens], says whose change does not count.
        """
        if not self.places:
            return torch.cat([entered[:, : self.still], left], 1)
        count = self.groups * len(self.places)
        change = (left - self.of(entered))[:, :count].unflatten(1, (self.groups, len(self.places)))
        spans = entered[:, : self.still].unflatten(1, (self.groups, self.tokens))
        moved = spans + (self._shares(spans, padding) @ change.float()).to(left.dtype)
        return torch.cat([moved.flatten(1, 2), left[:, count:]], 1)

    def _shares(self, spans: Tensor, padding: Tensor | None) -> Tensor:
        """Of each row's move, that of each row that works, fp32 [B, groups, tokens or 1, len(places)]."""
        if padding is None:
            counts = torch.ones(len(self.places)).expand(*spans.shape[:2], 1, -1)
        else:
            counts = (~self._some(padding, 2)).float()[:, :, None]
        alike = counts / counts.sum(3, keepdim=True).clamp(min=1)
        if not self.by_likeness:
            return alike
        rows, width = spans.float(), spans.shape[3]
        length = torch.full((width,), (width * WIDTH) ** -0.5)  # of which products are a cosine by ``WIDTH``
        ways = rms_norm(rows - alike @ self._some(rows, 2), (width,), length, 1e-12)
        own = torch.arange(self.tokens)[:, None] == torch.tensor(self.places)
        shares = (ways @ self._some(ways, 2).mT + _SURE * (own + 2 * (counts - 1))).softmax(3)
        return shares * counts.amax(3, keepdim=True)  # where all in turn are padding nothing moves
