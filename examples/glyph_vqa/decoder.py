"""The decoder over a shared prefix: every question of a picture sees the picture and itself, as if it were alone.

A plain forward pass would run the 108 visual tokens once per question. Here the prefix (chat header and pictures) runs
once, and each question attends to the prefix's keys and values and to its own tokens. The weights are those of the
transformers model, and so is the result (tests/test_model.py holds the two against each other).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb


@dataclass(frozen=True)
class Prefix:
    """What all questions of a row share: embeddings [B, P, D], positions [3, P] or [3, B, P], which of P are visual."""

    embeddings: Tensor
    positions: Tensor
    visual: Tensor  # bool [P]


def split_heads(x: Tensor, size: int) -> Tensor:
    """[B, N, heads * size] -> [B, heads, N, size]."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def projections(attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries [B, H, N, d] and keys, and values [B, kv, N, d], of normed hidden states [B, N, D]."""
    q, k, v = (split_heads(p(x), attention.head_dim) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    return *apply_rotary_pos_emb(q, k, *(r.to(q.dtype) for r in rope)), v


def prefix_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention of the prefix to itself, [B, P, H * d]."""
    out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def question_attention(
    q: Tensor, own: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor], length: int
) -> tuple[Tensor, Tensor]:
    """Return attention of Q questions of `length` tokens to the prefix and, causally, to themselves.

    q is [B, H, Q*T, d]; keys and values are [B, kv, Q*T, d] (own) and [B, kv, P, d] (shared). Returns the output
    [B, Q*T, H * d] and the weights on the prefix and on the question's own tokens [B, H, Q*T, P + T].
    """
    b, heads, n, d = q.shape
    kv, count = own[0].shape[1], n // length
    q = q.view(b, kv, heads // kv, n, d) * d**-0.5
    to_prefix = (q.flatten(2, 3) @ shared[0].transpose(-1, -2)).view(b, kv, heads // kv, n, -1)
    by_question = q.unflatten(3, (count, length))
    keys, values = (x.unflatten(2, (count, length))[:, :, None] for x in own)
    to_self = by_question @ keys.transpose(-1, -2)
    future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    to_self = to_self.masked_fill(future, float("-inf")).flatten(3, 4)
    exact = torch.cat([to_prefix, to_self], dim=-1).float().softmax(-1)
    weights, width = exact.to(v_dtype := shared[1].dtype), shared[0].shape[2]
    out = (weights[..., :width].flatten(2, 3) @ shared[1]).view(b, kv, heads // kv, n, d)
    out = out + (weights[..., width:].unflatten(3, (count, length)) @ values.to(v_dtype)).flatten(3, 4)
    return out.flatten(1, 2).transpose(1, 2).flatten(2), exact.flatten(1, 2)


def decode(
    text: nn.Module,
    prefix: Prefix,
    questions: Tensor,
    drop_before: int | None = None,
    start: int | None = None,
    watched: dict[int, tuple[Tensor, Tensor] | None] | None = None,
    entering: dict[int, Tensor | None] | None = None,
) -> Tensor:
    """Return the final hidden states of questions `[B, Q, T, D]` after a prefix.

    `drop_before` removes all visual tokens before that layer (0 = they never enter, None = never removed): their keys
    and values of earlier layers stay, positions of the text do not change, and the same holds for every decoding step.
    `start` is the first position of a question, by default the one after the last of the prefix. `watched` maps layers
    to what is replaced by the normed hidden states of question tokens on entry, [B, Q*T, D], and their attention to
    the prefix and to their own question, [B, heads, Q*T, P + T]. `entering` maps layers to what is replaced by the
    prefix's states on entry, [B, P, D].
    """
    b, count, length, width = questions.shape
    shared, own = prefix.embeddings, questions.flatten(1, 2)
    positions, visible = prefix.positions, prefix.visual
    start = int(positions.max()) + 1 if start is None else start
    after = torch.arange(start, start + length, device=own.device).repeat(count).expand(3, 1, -1)
    rope_own = text.rotary_emb(own, after)
    rope_shared = text.rotary_emb(own, positions if positions.ndim == 3 else positions[:, None])
    for index, layer in enumerate(text.layers):
        if index == drop_before:
            keep = (~visible).nonzero()[:, 0]
            shared, rope_shared = shared[:, keep], tuple(r[:, keep] for r in rope_shared)
        if entering is not None and index in entering:
            entering[index] = shared
        last = index == len(text.layers) - 1
        q_p, k_p, v_p = projections(layer.self_attn, layer.input_layernorm(shared), rope_shared)
        q_o, k_o, v_o = projections(layer.self_attn, layer.input_layernorm(own), rope_own)
        mixed, weights = question_attention(q_o, (k_o, v_o), (k_p, v_p), length)
        if watched is not None and index in watched:
            watched[index] = (layer.input_layernorm(own), weights)
        own = own + layer.self_attn.o_proj(mixed)
        own = own + layer.mlp(layer.post_attention_layernorm(own))
        if not last:  # nothing reads the prefix after the last layer
            shared = shared + layer.self_attn.o_proj(prefix_attention(q_p, k_p, v_p))
            shared = shared + layer.mlp(layer.post_attention_layernorm(shared))
    return text.norm(own).view(b, count, length, width)
