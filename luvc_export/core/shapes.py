"""Sizes of a model's two halves, as plain numbers: what budgets, FLOP models and the runtime need of a config."""

from __future__ import annotations

from dataclasses import dataclass

#: Height and width where neither the user nor the family says one: 576 visual tokens for Qwen's 28-pixel units.
DEFAULT_IMAGE_SIZE = (672, 672)


@dataclass(frozen=True)
class DecoderShape:
    """LLM sizes: ``heads`` query heads share ``kv_heads`` key/value heads of ``head_dim``; ``vocab`` rows of logits."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int


@dataclass(frozen=True)
class EncoderShape:
    """Vision encoder sizes. ``unit`` patches move as one unit; ``window`` is units per window side, 0 for none.

    ``full_attention`` lists the blocks that see the whole image (all of them where there are no windows). A ``gated``
    MLP has three products, another two.
    """

    blocks: int
    hidden: int
    intermediate: int
    unit: int
    window: int
    full_attention: tuple[int, ...]
    gated: bool = False
