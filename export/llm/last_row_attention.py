"""One row of attention: the last text token against the visual tokens, without asking the fused kernel for weights."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from luvc_export.errors import PlanError
from luvc_export.export.layers import capped, rotate, split_heads
from luvc_export.export.llm.span import Parts


class FamilyAttention(Protocol):
    """What of a family's decoder one row of attention is made with."""

    scale: float
    scores_cap: float | None

    def head_size(self, layer: Any) -> int:
        """Size of one attention head."""

    def angles(self, layer: Any, cache: Tensor) -> Tensor:
        """What of a rotary cache ``layer`` uses, [B, S, Dh / 2]."""

    def parts(self, layer: Any) -> Parts:
        """The modules of a layer."""

    def queries(self, layer: Any, normed: Tensor) -> Tensor:
        """Queries of rows, [B, heads, S, Dh]."""

    def norm_of(self, module: Any, x: Tensor) -> Tensor:
        """Norm of a transformers module."""

    def query_factor(self, cache: Tensor) -> Tensor | None:
        """Factor on every row's queries [B, S, 1], or None."""


def attention_of(layer: Any) -> Any:
    """The attention of a layer, for a score that reads it.

    Raises:
        PlanError: The layer has a state in place of keys.
    """
    if not hasattr(layer, "self_attn"):
        raise PlanError(
            "the score reads keys or attention where the layer has none",
            where="--score",
            got="a prune before a layer that keeps a state in place of keys, or the one before it does",
            expected="a score that reads tokens alone, such as residual",
            fix="choose another score, or prune elsewhere",
        )
    return layer.self_attn


def keys_of(decoder: FamilyAttention, layer: Any, x: Tensor) -> Tensor:
    """Keys [B, S, Hkv * Dh] of rows [B, S, D] that enter a layer, before anything turns them.

    Raises:
        PlanError: See ``attention_of``.
    """
    key: Tensor = attention_of(layer).k_proj(decoder.norm_of(decoder.parts(layer).before, x))
    return key


def last_row(
    decoder: FamilyAttention, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, valid: Tensor, last: Tensor, visual: int
) -> Tensor:
    """Attention of each prompt's last text token in ``layer``, mean over heads, fp32 [B, visual].

    The past of a conversation is left out: it would scale each head's row and change no order inside a head.

    Args:
        decoder: For the family's norms and scale.
        layer: Whose projections are used.
        x: [B, S, D] that enters it, visual tokens first.
        cos: [B, S, Dh / 2], as ``sin``.
        sin: See ``cos``.
        valid: bool [B, S], False for padding.
        last: int64 [B], place in S of the last text token.
        visual: Visual tokens, the first of S.

    Raises:
        PlanError: See ``attention_of``.
    """
    attn, parts, factor = attention_of(layer), decoder.parts(layer), decoder.query_factor(cos)
    cos, sin = decoder.angles(layer, cos), decoder.angles(layer, sin)
    batch, length = x.shape[:2]
    flat = last + length * torch.arange(batch)
    normed = decoder.norm_of(parts.before, x)
    row = _rows(normed, flat)
    size = decoder.head_size(layer)
    query = decoder.queries(layer, row)
    key = split_heads(attn.k_proj(normed), size)
    if parts.query_norm is not None:
        query, key = decoder.norm_of(parts.query_norm, query), decoder.norm_of(parts.key_norm, key)
    query, key = rotate(query, _rows(cos, flat), _rows(sin, flat)), rotate(key, cos, sin)
    if factor is not None:
        query = query * _rows(factor, flat)[:, None].to(query.dtype)
    shared = query.shape[1] // key.shape[1]
    query = query.reshape(batch, key.shape[1], shared, size)
    weights = capped((query.float() @ key.float().transpose(2, 3)) * decoder.scale, decoder.scores_cap)
    weights = torch.where(valid[:, None, None], weights, -1e30).softmax(-1)
    return weights.mean((1, 2))[:, :visual]


def _rows(values: Tensor, flat: Tensor) -> Tensor:
    """[B, S, C] -> [B, 1, C] at ``flat`` places of B * S."""
    batch, length, channels = values.shape
    return values.reshape(batch * length, channels).index_select(0, flat).reshape(batch, 1, channels)
