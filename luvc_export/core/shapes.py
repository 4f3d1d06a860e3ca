"""Sizes of a model's two halves, as plain numbers: what budgets, FLOP models and the runtime need of a config."""

from __future__ import annotations

from dataclasses import dataclass

#: Height and width where neither the user nor the family says one: 576 visual tokens for Qwen's 28-pixel units.
DEFAULT_IMAGE_SIZE = (672, 672)


@dataclass(frozen=True)
class LayerShape:
    """What layers of one LLM may differ in; ``reads`` is the layer whose cache is read, itself unless it is shared."""

    kv_heads: int
    head_dim: int
    intermediate: int
    reads: int


@dataclass(frozen=True)
class DecoderShape:
    """LLM sizes: ``heads`` query heads share ``kv_heads`` key/value heads of ``head_dim``; ``vocab`` rows of logits.

    ``per_layer`` has one entry a layer where they differ. The last ``shared`` layers make no keys and values: they read
    the caches of earlier ones, and compute nothing but the rows whose logits are asked for. ``gate`` is the width of
    embeddings that every layer has of its own.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    per_layer: tuple[LayerShape, ...] = ()
    shared: int = 0
    gate: int = 0

    @property
    def cached(self) -> int:
        """Layers that have a cache: all but the last ``shared``."""
        return self.layers - self.shared

    def layer(self, number: int) -> LayerShape:
        """Sizes of one layer."""
        return (
            self.per_layer[number]
            if self.per_layer
            else LayerShape(self.kv_heads, self.head_dim, self.intermediate, number)
        )

    @property
    def caches(self) -> tuple[tuple[int, int], ...]:
        """Key/value heads and head size of every cache."""
        layers = [self.layer(number) for number in range(self.cached)]
        return tuple((layer.kv_heads, layer.head_dim) for layer in layers)


@dataclass(frozen=True)
class EncoderShape:
    """Vision encoder sizes. ``unit`` patches move as one unit; ``window`` is units per window side, 0 for none.

    ``full_attention`` lists the blocks that see the whole image (all of them where there are no windows). A ``gated``
    MLP has three products, another two. A convolutional tower has no blocks, and ``flops`` for each unit: nothing merges
    or leaves inside it.
    """

    blocks: int
    hidden: int
    intermediate: int
    unit: int
    window: int
    full_attention: tuple[int, ...]
    gated: bool = False
    flops: int = 0
