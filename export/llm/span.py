"""What travels with the visual span through the layers, where rows stand, and who may look at whom."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from luvc_export.core.shapes import DecoderShape
from luvc_export.export.compression import spu
from luvc_export.export.llm import aggregate
from luvc_export.export.llm.rope import Rope


class Parts(NamedTuple):
    """Modules of an LLM layer whose names differ: its first norm, the product after attention, norms of heads."""

    before: Any
    out: Any
    query_norm: Any = None
    key_norm: Any = None


class Placed(NamedTuple):
    """Where rows stand: order int64 [B, S], cos and sin fp32 [B, S, Dh / 2]."""

    order: Tensor
    cos: Tensor
    sin: Tensor


class Rows(NamedTuple):
    """What a score may read beside the span.

    The hidden states that entered the layer before [B, S, D] or None, where the rows of the span and the text stand,
    the text's order [B, T] and its mask [B, P + T].
    """

    before: Tensor | None
    whole: Placed
    order: Tensor
    text_mask: Tensor

    def valid(self, visual: int) -> tuple[Tensor, Tensor]:
        """Which of [visual | text] rows are no padding, bool [B, visual + T], and where the last text row is, [B]."""
        batch, length = self.order.shape
        text = self.text_mask[:, self.text_mask.shape[1] - length :]
        last = torch.where(text, torch.arange(length), -1).to(torch.float32).argmax(1) + visual
        return torch.cat([torch.ones(batch, visual, dtype=torch.bool), text], 1), last


class Span(NamedTuple):
    """What travels with the visual span.

    Order [B, G * N], cos and sin [B, G * N, Dh / 2], kept [B, G, N] with padding marked (``spu.mark_padding``),
    DeepStack planes [B, G * N, planes * D] or None; where prunes aggregate, the mass of all rows. There N of order,
    angles, planes and mass is one more than that of ``kept`` once something was dropped. After a prune that was traced
    as marks, ``whole`` is where the rows of [visual | text] stand.
    """

    order: Tensor
    cos: Tensor
    sin: Tensor
    kept: Tensor
    planes: Tensor | None = None
    mass: aggregate.Mass | None = None
    whole: Placed | None = None

    def beside(self, text: Placed) -> Placed:
        """Where the rows of [visual | text] stand."""
        own = Placed(self.order, self.cos, self.sin)
        return self.whole or Placed(*(torch.cat(pair, 1) for pair in zip(own, text, strict=True)))

    def gather(self, flat: Tensor, groups: int, tokens: int, keep: int) -> Span:
        """Keep the rows at ``flat`` (``spu.flat_index``)."""
        index = spu.gather(self.kept.flatten(1), flat, groups, tokens, keep)
        order, cos, sin = (spu.gather(part, flat, groups, tokens, keep) for part in self[:3])
        planes = None if self.planes is None else spu.gather(self.planes, flat, groups, tokens, keep)
        return Span(order, cos, sin, index.unflatten(1, (groups, keep)), planes)

    def empty(self) -> Span:
        """No visual token left."""
        planes = None if self.planes is None else self.planes[:, :0]
        return Span(self.order[:, :0], self.cos[:, :0], self.sin[:, :0], self.kept[:, :, :0], planes)


def aggregated(rope: Rope, x: Tensor, span: Span, dropped: aggregate.Dropped, chosen: Tensor) -> tuple[Tensor, Span]:
    """The chosen rows of each group and their aggregate, then the text; the span beside them."""
    assert span.mass is not None
    groups, rows = dropped.groups, dropped.groups * dropped.rows
    mass, positions = dropped.reduced_mass(span.mass)
    cos, sin = rope(positions)
    order = dropped.beside(span.order, dropped.last_order(span.order))
    tokens, keep = span.kept.shape[2], chosen.shape[2]
    flat = spu.flat_index(chosen, tokens)
    kept = spu.gather(span.kept.flatten(1), flat, groups, tokens, keep).unflatten(1, (groups, keep))
    planes = None if span.planes is None else dropped.reduced(span.planes)
    span = Span(order, dropped.beside(span.cos, cos), dropped.beside(span.sin, sin), kept, planes, mass)
    return torch.cat([dropped.reduced(x[:, :rows]), x[:, rows:]], 1), span


def tokens_of(values: Tensor, groups: int, rows: int, tokens: int) -> Tensor:
    """[B, G * rows, ...] -> [B, G, tokens, ...]: without each group's aggregate, its last row, where there is one."""
    apart = values.unflatten(1, (groups, rows))
    return apart if tokens == rows else apart[:, :, :tokens]


def empty_caches(shape: DecoderShape, rows: int, dtype: torch.dtype) -> list[Tensor]:
    """What ``Decoder.forward`` takes for ``rows`` rows of a batch that begin."""
    kinds = [getattr(torch, state.dtype) if state.dtype else dtype for state in shape.kept]
    return [torch.zeros(state.sizes(rows, 0), dtype=kind) for state, kind in zip(shape.kept, kinds, strict=True)]


def rows_at(values: Tensor, index: Tensor, first: int = 0) -> Tensor:
    """Rows ``first + index`` [B, n] of [B, S, ...]: [B, n, ...]."""
    batch, length = values.shape[:2]
    flat = index + (first + length * torch.arange(batch)[:, None])
    return values.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, (batch, -1))


def within(queries: Tensor, keys: Tensor | None, window: int) -> Tensor:
    """Which keys at places int64 [B, K] are less than ``window`` before queries at places [B, Q]: bool [B, 1, Q, K]."""
    assert keys is not None, "a window asks where cached rows stood"
    return (keys[:, None, :] > queries[:, :, None] - window)[:, None]


def causal_mask(queries: Tensor, new: Tensor, text_mask: Tensor, past: int) -> Tensor:
    """Who may look at whom: bool [B, 1, Q, past + V + T].

    A key is seen when it is past or its order is not greater than the query's, and it is no padding: the last P + T
    columns are text as ``text_mask`` [B, P + T] says, those before them visual and always valid.

    Args:
        queries: Order of the rows that look, int64 [B, Q]: all of [visual | text] but for layers that share a cache.
        new: Order of [visual | text] rows of this call, int64 [B, V + T].
        text_mask: See ``graph_io``.
        past: Rows of the cache before this call.
    """
    before = torch.full((new.shape[0], past), -1, dtype=new.dtype)
    keys = torch.cat([before, new], 1)
    column = torch.arange(keys.shape[1]) - (keys.shape[1] - text_mask.shape[1])
    valid = text_mask.index_select(1, column.clamp(min=0)) | (column < 0)
    return ((keys[:, None, :] <= queries[:, :, None]) & valid[:, None, :])[:, None]
