"""Sizes of a model's two halves, as plain numbers: what budgets, FLOP models and the runtime need of a config."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

#: Height and width where neither the user nor the family says one: 576 visual tokens for Qwen's 28-pixel units.
DEFAULT_IMAGE_SIZE = (672, 672)


#: In the shape of a state, its layer's cached rows.
ROWS = -1
#: Name of the state that holds the logical place of each cached row, which sliding windows ask for.
PLACE = "place"


#: Types of scales beside codes.
ScaleType = Literal["float32", "float16"]
#: The state beside values that are stored in codes (docs/calibration.md).
VALUE_SCALE = "value_scale"


@dataclass(frozen=True)
class State:
    """A tensor that a decoder takes with a conversation and gives back: keys, values, or what stands beside them.

    Args:
        layer: Whose it is.
        name: ``key``, ``value``, or the family's word for what stands beside them.
        shape: Of one row of a batch. At most one size is ``ROWS``: there it has one entry for each of the layer's
            cached rows, [visual | text] as these lie. Without it the state has one size always and begins as zeros.
        dtype: Element type; None for that of keys and values, which is the graph's.
        window: Of ``PLACE``: how far back its layer looks, where rows that nobody sees any more may leave its cache.
            The decoder then takes any rows of such a layer, as long as what ``text_mask`` says of the last of them is
            theirs. None: all rows stay.
    """

    layer: int
    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float16", "int64", "int32", "int8", "uint8"] | None = None
    window: int | None = None

    @property
    def axis(self) -> int | None:
        """Axis of [B, *shape] along which rows are added; None where the shape is fixed."""
        return 1 + self.shape.index(ROWS) if ROWS in self.shape else None

    @property
    def in_cache(self) -> bool:
        """Whether it is the keys or the values."""
        return self.name in ("key", "value")

    @property
    def past(self) -> str:
        """Name of the graph input."""
        return f"{'past_key_values' if self.in_cache else 'past_states'}.{self.layer}.{self.name}"

    @property
    def present(self) -> str:
        """Name of the graph output."""
        return f"{'present' if self.in_cache else 'present_states'}.{self.layer}.{self.name}"

    def sizes(self, batch: int, rows: int) -> tuple[int, ...]:
        """Its shape for ``batch`` conversations whose layer has ``rows`` cached rows."""
        return (batch, *(rows if size == ROWS else size for size in self.shape))

    def numbers(self, rows: int) -> int:
        """Numbers of one conversation whose layer has ``rows`` cached rows."""
        return math.prod(self.sizes(1, rows))

    def bytes(self, rows: int, cache_bytes: int) -> int:
        """Bytes of the same; keys and values take ``cache_bytes`` a number."""
        return self.numbers(rows) * (_BYTES[self.dtype] if self.dtype else cache_bytes)


_BYTES = {"float32": 4, "float16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1}


def spare_rows(window: int) -> int:
    """Rows out of sight that a cache may carry before it is copied without them: one copy in so many steps."""
    return window // 8


def most_rows(window: int) -> int:
    """Rows that stand in the cache of a layer with a window after a call, where each place has one row."""
    return window + spare_rows(window)


def in_codes(states: Iterable[State], scales: ScaleType) -> tuple[State, ...]:
    """The same where keys and values are int8, and a scale of each row and head stands behind each layer's values."""
    coded: list[State] = []
    for state in states:
        coded.append(replace(state, dtype="int8") if state.in_cache else state)
        if state.name == "value":
            coded.append(State(state.layer, VALUE_SCALE, (*state.shape[:-1], 1), scales))
    return tuple(coded)


def row_counts(states: Iterable[State], sizes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Cached rows of each layer, of states [B, *shape] of these sizes; 0 for layers that cache none."""
    counts: dict[int, int] = {}
    for state, size in zip(states, sizes, strict=True):
        counts.setdefault(state.layer, 0)
        if state.axis is not None:
            counts[state.layer] = size[state.axis]
    return tuple(counts.values())


@dataclass(frozen=True)
class LayerShape:
    """What layers of one LLM may differ in; ``reads`` is the layer whose cache is read, itself unless it is shared.

    A layer without keys and values has 0 ``kv_heads``; ``mixer`` is how many numbers its products have beside the MLP.
    """

    kv_heads: int
    head_dim: int
    intermediate: int
    reads: int
    mixer: int = 0


@dataclass(frozen=True)
class DecoderShape:
    """LLM sizes: ``heads`` query heads share ``kv_heads`` key/value heads of ``head_dim``; ``vocab`` rows of logits.

    ``per_layer`` has one entry a layer where they differ. The last ``shared`` layers make no keys and values: they read
    the caches of earlier ones, and compute nothing but the rows whose logits are asked for. ``gate`` is the width of
    embeddings that every layer has of its own. ``states`` stand beside the keys and values, by layer.
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
    states: tuple[State, ...] = ()

    @property
    def cached(self) -> int:
        """Layers that keep something of a conversation: all but the last ``shared``."""
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
        """Key/value heads and head size of every cache; no head where a layer has other states alone."""
        layers = [self.layer(number) for number in range(self.cached)]
        return tuple((layer.kv_heads, layer.head_dim) for layer in layers)

    @property
    def kept(self) -> tuple[State, ...]:
        """All that a conversation consists of, in graph order: layer by layer keys, values, and what is beside them."""
        kept: list[State] = []
        for number, (heads, size) in enumerate(self.caches):
            kept += [State(number, name, (heads, ROWS, size)) for name in ("key", "value") if heads]
            kept += [state for state in self.states if state.layer == number]
        return tuple(kept)

    @property
    def most_rows(self) -> dict[int, int]:
        """Cached rows at most, by layer, of those whose rows leave; engines keep all of them."""
        return {state.layer: most_rows(state.window) for state in self.states if state.window is not None}

    @property
    def running(self) -> tuple[int, ...]:
        """Layers with a state that every token changes: what was taken into it cannot be taken back."""
        return tuple(sorted({state.layer for state in self.states if state.axis is None}))

    @property
    def keyless(self) -> tuple[int, ...]:
        """Layers without keys and values."""
        return tuple(number for number, (heads, _) in enumerate(self.caches) if not heads)


@dataclass(frozen=True)
class EncoderShape:
    """Vision encoder sizes. ``unit`` patches move as one unit; ``window`` is units per window side, 0 for none.

    ``full_attention`` lists the blocks that see the whole image (all of them where there are no windows). A ``gated``
    MLP has three products, another two. A convolutional tower has no blocks, and ``flops`` for each unit: nothing
    merges or leaves inside it.
    """

    blocks: int
    hidden: int
    intermediate: int
    unit: int
    window: int
    full_attention: tuple[int, ...]
    gated: bool = False
    flops: int = 0
