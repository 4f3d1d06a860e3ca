"""Attention masks of the layers from one prune to the next: one mask for each kind of layer that is there."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import spu
from luvc_export.export.llm.choice import unparted
from luvc_export.export.llm.span import Placed, Span, causal_mask, rows_at, within
from luvc_export.export.llm.states.logical_order import LogicalOrder
from luvc_export.export.llm.working import Working


class Kind(NamedTuple):
    """What layers of one model may differ in.

    Args:
        both_ways: Tokens of one image see each other both ways.
        window: What stands so many places back, or further, is not seen; None where all is.
        encoder: All tokens see each other, in a window those on both sides.
    """

    both_ways: bool = False
    window: int | None = None
    encoder: bool = False


class Images:
    """The order of each image's first token, which its tokens take where they see each other both ways.

    Args:
        plan: Which says how many images a group has.
        visual_order: Order of all visual tokens of the call, int64 [B, G * N].
        groups: G.
    """

    def __init__(self, plan: Plan, visual_order: Tensor, groups: int) -> None:
        self.own, self.images, self.groups = plan.vision_tokens, plan.sharing.images, groups
        self.starts = visual_order.unflatten(1, (groups, self.images, self.own))[:, :, :, 0]

    def order(self, span: Span, rows: int) -> Tensor:
        """Order of a span of ``rows`` rows a group, int64 [B, G * rows]; an aggregate takes its last image's."""
        if self.images == 1:
            return self.starts.expand(-1, -1, rows).flatten(1, 2)
        order = self.starts.gather(2, spu.unmark(span.kept) // self.own)
        aggregated = [self.starts[:, :, -1:]] * (rows - span.kept.shape[2])
        return torch.cat([order, *aggregated], 2).flatten(1, 2)


class Sight:
    """Masks of one stage.

    Args:
        placed: Where its rows [visual | text] stand.
        text: Where those of the text do.
        text_mask: See ``graph_io``.
        visual: Order of the visual rows where they see each other both ways, int64 [B, V].
        pictures: V.
        sides: Of the visual rows, where those of one do not see those of the other (``choice.sides``), fp32 [B, V].
    """

    def __init__(
        self,
        placed: Placed,
        text: Placed,
        text_mask: Tensor,
        visual: Tensor | None,
        pictures: int,
        sides: Tensor | None = None,
    ) -> None:
        self.pictures, self.sides = pictures, sides
        self.placed, self.text, self.text_mask, self.visual = placed, text, text_mask, visual
        self._masks: dict[tuple[Kind, tuple[int, ...]], Tensor] = {}

    @cached_property
    def logical(self) -> LogicalOrder:
        """The order in which layers with states take the rows."""
        return LogicalOrder(self.placed.order, self.pictures, self.text.order, self.text_mask)

    def mask(self, kind: Kind, past: int, works: Working, places: Tensor | None = None) -> Tensor:
        """Mask [B, 1, rows that work, past + V + T] of layers of ``kind``; ``places`` of keys are asked for by windows.

        Without visual rows that work it is cut out of that of all rows, which other layers share.
        """
        key, rows = (kind, works.places), works if works.places else Working()
        if key not in self._masks:
            order = self._order(kind)
            seen = causal_mask(rows.of(order), order, self.text_mask, past)
            if kind.window:
                own = torch.cat([self.placed.order[:, : self.pictures], self._text_places], 1)
                seen = seen & within(rows.of(own), own if kind.encoder else places, kind.window)
                seen = seen & rows.of(within(own, own, kind.window).mT, 2) if kind.encoder else seen
            if self.sides is not None:
                seen = seen & unparted(self.sides, past, self.text.order.shape[1])
            self._masks[key] = seen
        mask = self._masks[key]
        return mask if works.places else works.of(mask, 2)

    def mask_of(self, kind: Kind, past: int, index: Tensor, places: Tensor | None = None) -> Tensor:
        """Mask [B, 1, n, past + V + T] of the text rows ``index`` int64 [B, n]."""
        seen = causal_mask(rows_at(self.text.order, index), self._order(kind), self.text_mask, past)
        return seen & within(rows_at(self._text_places, index), places, kind.window) if kind.window else seen

    @cached_property
    def _text_places(self) -> Tensor:
        """Places that text rows look from; padding, which comes last, looks from the first one and sees something."""
        length = self.text.order.shape[1]
        return torch.where(self.text_mask[:, self.text_mask.shape[1] - length :], self.text.order, 0)

    def _order(self, kind: Kind) -> Tensor:
        if kind.encoder:
            return torch.zeros_like(self.placed.order)
        if not kind.both_ways or self.visual is None:
            return self.placed.order
        return torch.cat([self.visual, self.text.order], 1)
