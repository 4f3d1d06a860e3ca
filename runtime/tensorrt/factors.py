"""Factors of a set of adapters on the GPU: brought there once, read by calls by address, given back behind the last.

An engine reads them as any input. Those of the empty set have no bytes, and an address all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luvc_export.core.element_types import BY_NAME
from luvc_export.runtime.cuda.device import Event, Gpu
from luvc_export.runtime.cuda.tensor import to_engine
from luvc_export.runtime.model import Array
from luvc_export.runtime.tensorrt.memory_plan import pack


class FactorSet:
    """Memory with the factors of one set of adapters.

    Args:
        gpu: Where it is taken.
        stream: Of the calls that read it.
        arrays: Factors by input name, float32.
        kinds: Types of the engine's inputs by name.

    Raises:
        MachineError: There is no memory for it.
    """

    def __init__(self, gpu: Gpu, stream: int, arrays: Mapping[str, Array], kinds: Mapping[str, str]) -> None:
        self._stream, self._read, brought = stream, Event(gpu), Event(gpu)
        #: Sizes by input name.
        self.shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        region = pack({name: math.prod(shape) * BY_NAME[kinds[name]].itemsize for name, shape in self.shapes.items()})
        self._memory = gpu.allocate(region.nbytes, "factors of adapters", self._read)
        self._offsets, host = region.offsets, gpu.pinned(region.nbytes, brought)
        for name, offset in region.offsets.items():
            flat = to_engine(arrays[name], kinds[name]).reshape(-1).view("uint8")
            host.array()[offset : offset + flat.size] = flat
        gpu.upload(self._memory.address, host.address, region.nbytes, stream)
        brought.record(stream)
        self.end_read()

    @property
    def address(self) -> int:
        """Where it lies; no other living set lies there."""
        return self._memory.address

    def place(self, name: str) -> tuple[int, tuple[int, ...]]:
        """Address and shape of one factor."""
        return self._memory.address + self._offsets[name], self.shapes[name]

    def end_read(self) -> None:
        """A call that reads it is on the stream: its memory is given back behind that one at the earliest."""
        self._read.record(self._stream)


@dataclass(frozen=True)
class SetFactor:
    """One factor of a set, as the feeds of a call have it in place of an array."""

    set: FactorSet
    name: str


def of_set(factors: FactorSet) -> dict[str, SetFactor]:
    """Feeds that name all factors of a set."""
    return {name: SetFactor(factors, name) for name in factors.shapes}


def split_feeds(feeds: Mapping[str, Any]) -> tuple[dict[str, Array], FactorSet | None]:
    """Decoder inputs that are the host's arrays, and the set of LoRA factors on the GPU; None without adapters."""
    factors = next((value.set for value in feeds.values() if isinstance(value, SetFactor)), None)
    return {name: value for name, value in feeds.items() if not isinstance(value, SetFactor)}, factors
