"""The few tensor operations every family shares, written so that each traces to one ONNX operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def norm(module: Any, x: Tensor) -> Tensor:
    """LayerNorm (LayerNormalization-17) or RMSNorm (RMSNormalization-23) of a transformers module."""
    if isinstance(module, nn.LayerNorm):
        normed: Tensor = module(x)
        return normed
    return rms_norm(module, x)


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """RMSNorm of a transformers module with its own epsilon and weight, if any, fp32 inside (RMSNormalization-23)."""
    epsilon = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    weight = module.weight if hasattr(module, "weight") else torch.ones(x.shape[-1], dtype=x.dtype)
    return nn.functional.rms_norm(x, (x.shape[-1],), weight, epsilon)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves not interleaved (RotaryEmbedding-23).

    Args:
        x: [B, heads, S, Dh].
        cos: [B, S, Dh / 2]; narrower where only the first part of a head is turned.
        sin: As ``cos``.
    """
    if (part := 2 * cos.shape[-1]) < x.shape[-1]:
        return torch.cat([rotate(x[..., :part], cos, sin), x[..., part:]], -1)
    return torch.onnx.ops.rotary_embedding(x, cos.to(x.dtype), sin.to(x.dtype))


def capped(x: Tensor, cap: float | None) -> Tensor:
    """``cap * tanh(x / cap)`` (Gemma's soft cap); ``x`` itself without a cap."""
    return x if cap is None else torch.tanh(x / cap) * cap


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, cap: float | None = None
) -> Tensor:
    """Softmax attention with grouped queries (Attention-23): [B, heads, Q, Dh] -> [B, Q, heads * Dh].

    Args:
        query: [B, heads, Q, Dh].
        key: [B, kv heads, K, Dh].
        value: [B, kv heads, K, Dh].
        mask: bool (True may look) or additive, broadcastable to [B, heads, Q, K].
        scale: Factor on the scores.
        cap: Soft cap of the scores before the mask; None for none.
    """
    if cap is not None:
        out = torch.onnx.ops.attention(query, key, value, mask, scale=scale, softcap=cap)[0]
        return out.transpose(1, 2).flatten(2)
    grouped = query.shape[1] != key.shape[1]
    out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, S, heads * Dh] -> [B, heads, S, Dh]."""
    return x.unflatten(-1, (x.shape[-1] // head_dim, head_dim)).transpose(1, 2)
