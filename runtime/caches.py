"""Caches of keys and values: ONNX Runtime's, and what codes stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.manifest import Manifest, PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.graph_io import CacheTensor
from luvc_export.runtime.backend import Array


@dataclass(frozen=True)
class OrtCache:
    """Keys and values as OrtValues on the device that runs the graph, in the order of ``graph_io.cache_tensors``.

    ``parts`` of them are one layer's.
    """

    values: tuple[Any, ...]
    parts: int = 2

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each layer."""
        return tuple(int(value.shape()[2]) for value in self.values[:: self.parts])

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""
        return sum(value.tensor_size_in_bytes() for value in self.values)


def tensors_of(manifest: Manifest, entry: PlanEntry) -> tuple[CacheTensor, ...]:
    """What the caches of a plan are made of."""
    return graph_io.cache_tensors(manifest.decoder, entry.caches is not None)


def float_rows(
    tensors: Sequence[CacheTensor], arrays: Sequence[Array], decoder: CheckedGraph
) -> list[tuple[Array, Array]]:
    """Keys (rotated) and values of every layer, float32 [B, Hkv, rows, Dh], of caches as they are stored.

    Args:
        tensors: What they are made of.
        arrays: Of each, codes as they are and floats as float32.
        decoder: The graph, which holds what keys' codes are multiplied by.

    Raises:
        BundleError: It does not.
    """
    parts: list[dict[str, Array]] = [{} for _ in range(1 + max((one.layer for one in tensors), default=-1))]
    for one, array in zip(tensors, arrays, strict=True):
        parts[one.layer][one.part] = array
    if not any("value_scale" in layer for layer in parts):
        return [(layer["key"], layer["value"]) for layer in parts]
    rows = []
    for number, layer in enumerate(parts):
        key, value = layer["key"].astype(np.float32), layer["value"].astype(np.float32)
        heads, size = key.shape[1], key.shape[3]
        scales: NDArray[np.float32] = np.frombuffer(
            decoder.floats(graph_io.key_scales_name(number), heads * size), "<f4"
        )
        rows.append((key * scales.reshape(1, heads, 1, size), value * layer["value_scale"]))
    return rows
