"""How much GPU memory the caches take and where each lies: decided from the plan before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_NAME
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import BundleError

#: TensorRT wants device addresses aligned to 256 bytes (``IExecutionContext.set_device_memory``, NvInferRuntime.h).
ALIGNMENT = 256


@dataclass(frozen=True)
class Region:
    """Tensors side by side in one block: the offset of each in bytes, aligned, and the size of the block."""

    offsets: dict[str, int]
    nbytes: int


def pack(sizes: Mapping[str, int]) -> Region:
    """Place tensors of ``sizes`` bytes one after another, each aligned."""
    offsets, end = {}, 0
    for name, nbytes in sizes.items():
        offsets[name] = end
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return Region(offsets, end)


@dataclass(frozen=True)
class KvPlan:
    """Keys and values of every layer.

    Args:
        rows: Rows a layer's cache holds at most: see ``Plan.cache_rows``.
        shapes: (kv heads, head size) of each layer that has a cache.
        itemsize: Bytes of an element.
        sets: Sets of caches an answer needs: ``concat`` reads one and writes the other, ``inplace`` has one.
        region: Where each cache lies in a set, by input name.
    """

    rows: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    itemsize: int
    sets: int
    region: Region

    @property
    def nbytes(self) -> int:
        """Bytes of the sets of one answer."""
        return self.sets * self.region.nbytes

    def token(self, layer: int) -> int:
        """Bytes of one row of one head of a layer."""
        return self.shapes[layer][1] * self.itemsize

    def row(self, layer: int) -> int:
        """Bytes of one row of all heads of a layer."""
        return self.shapes[layer][0] * self.token(layer)

    def region_of(self, batch: int) -> Region:
        """Where each cache lies when ``batch`` conversations are side by side; the first axis is theirs."""
        names = self.region.offsets
        return pack({name: batch * self.rows[i // 2] * self.row(i // 2) for i, name in enumerate(names)})


def plan_kv(shape: DecoderShape, plan: Plan, entry: EngineEntry) -> KvPlan:
    """Plan the caches of one conversation with as many images and as much text as the engines take.

    Raises:
        BundleError: The engines' fixed capacities are not those of the plan.
    """
    rows = plan.cache_rows(entry.groups, entry.text_capacity)
    inputs = {binding.name: binding for binding in entry.decoder.inputs}
    names = graph_io.past_names(shape.cached)
    missing = [name for name in names if name not in inputs]
    if missing:
        raise BundleError("an engine lacks a cache", where=entry.decoder.file, got=f"no input {missing[0]!r}")
    for layer, name in ((index // 2, name) for index, name in enumerate(names)):
        heads, size = shape.caches[layer]
        expected = (heads, rows[layer] if entry.kv == "inplace" else -1, size)
        if inputs[name].shape[1:] != expected:
            raise BundleError(
                "a cache of the engine does not fit the plan",
                where=f"{entry.decoder.file}: {name}",
                got=list(inputs[name].shape),
                expected=["batch", *expected],
                fix="luvc-export build the engines again",
            )
    itemsize = BY_NAME[inputs[names[0]].dtype].itemsize
    row = [heads * size * itemsize for heads, size in shape.caches]
    region = pack({name: rows[index // 2] * row[index // 2] for index, name in enumerate(names)})
    return KvPlan(rows, shape.caches, itemsize, 1 if entry.kv == "inplace" else 2, region)
