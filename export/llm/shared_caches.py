"""Layers at the end of a model that read the caches of earlier ones (``LlmPlan.shared``): Gemma 4's.

No key and no value is made after the last layer that has a cache, so nothing reads what another row becomes: the rows
whose logits are asked for are gathered there, and nothing else goes on. What they see of a picture is what the layers
kept whose caches they read; no visual token is computed, and no budget is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from luvc_export.export.layers import attention
from luvc_export.export.llm.sight import Kind, Sight
from luvc_export.export.llm.span import Placed, rows_at


class Producer(NamedTuple):
    """The cache of a layer that others read, this call's rows in it: key, value, past rows, and who sees whom there.

    ``places`` int64 [B, R] of its rows are known where a window asks for them.
    """

    key: Tensor
    value: Tensor
    past: int
    sight: Sight
    places: Tensor | None = None


class Consumers(NamedTuple):
    """What layers that share caches need of the family's decoder.

    Attributes:
        layers: All layers of the model by number, those that share a cache.
        sources: Whose cache each reads.
        kind: Of a layer.
        query: Layer, rows [B, n, D], cos and sin -> queries [B, heads, n, Dh], turned.
        finish: Layer, rows that entered, what attention gave, its own embeddings -> rows that leave.
        scale: Of scores.
    """

    layers: Mapping[int, Any]
    sources: Mapping[int, int]
    kind: Callable[[Any], Kind]
    query: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    finish: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
    scale: float


def consume(
    consumers: Consumers,
    x: Tensor,
    text: Placed,
    index: Tensor,
    producers: Mapping[int, Producer],
    beside: Sequence[Tensor | None],
) -> Tensor:
    """Run the layers on rows ``x`` [B, n, D], text rows ``index`` int64 [B, n]; [B, n, D].

    Args:
        consumers: The layers.
        x: Rows that leave the last layer with a cache.
        text: Where text rows stand.
        index: Which of them ``x`` are.
        producers: Caches by layer.
        beside: Each layer's own embeddings [B, n, P].
    """
    cos, sin = rows_at(text.cos, index), rows_at(text.sin, index)
    masks: dict[tuple[int, Kind], Tensor] = {}
    for (number, layer), own in zip(consumers.layers.items(), beside, strict=True):
        source, kind = consumers.sources[number], consumers.kind(layer)
        key, value, past, sight, places = producers[source]
        if (source, kind) not in masks:
            masks[source, kind] = sight.mask_of(kind, past, index, places)
        query = consumers.query(layer, x, cos, sin)
        attended = attention(query, key, value, masks[source, kind], consumers.scale)
        x = consumers.finish(layer, x, attended, own)
    return x
