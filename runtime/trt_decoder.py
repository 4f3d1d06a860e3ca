"""The decoder engine: prompts on one lane, single tokens on another, caches in blocks that are planned beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from luvc_export import contract
from luvc_export.errors import UsageError
from luvc_export.manifest_engines import EngineEntry
from luvc_export.runtime.backend import Array, Cache
from luvc_export.runtime.cuda import Gpu, Memory
from luvc_export.runtime.cuda_pool import Lease, Pool
from luvc_export.runtime.cuda_tensor import GpuTensor, to_engine, to_host
from luvc_export.runtime.trt_cache import TrtCache, behind
from luvc_export.runtime.trt_call import (
    check_room,
    check_shapes,
    decode_profile,
    decoder_arrays,
    prefill_profile,
)
from luvc_export.runtime.trt_lane import Lane
from luvc_export.runtime.trt_plan import KvPlan


class TrtDecoder:
    """Runs the decoder engine.

    Args:
        gpu: Where it runs.
        stream: Stream of the lanes.
        lanes: By profile.
        entry: What the manifest says of the engines.
        keep: Visual tokens an image leaves in each layer.
        kv: Where caches lie.
    """

    def __init__(
        self, gpu: Gpu, stream: int, lanes: Mapping[str, Lane], entry: EngineEntry, keep: tuple[int, ...], kv: KvPlan
    ) -> None:
        self._gpu, self._stream, self._lanes, self._entry, self._keep, self._kv = gpu, stream, lanes, entry, keep, kv
        self._kinds = {binding.name: binding.dtype for binding in entry.decoder.inputs}
        self._past, self._present = contract.past_names(len(keep)), contract.present_names(len(keep))
        self._blocks = Pool(self._allocate)

    def __call__(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], TrtCache]:
        """See ``TrtBackend.decode``."""
        if cache is not None and not isinstance(cache, TrtCache):
            raise UsageError("this cache is of another back-end", where="cache", got=type(cache).__name__)
        images, text = feeds[contract.VISUAL_EMBEDS].shape[1], feeds[contract.INPUT_IDS].shape[1]
        check_room(self._entry, cache, images, text)
        arrays = decoder_arrays(self._entry, feeds, cache)
        resident: dict[str, tuple[int, tuple[int, ...]]] = {}
        visual, dtype = feeds[contract.VISUAL_EMBEDS], self._kinds[contract.VISUAL_EMBEDS]
        if isinstance(visual, GpuTensor) and visual.gpu is self._gpu and visual.dtype_name == dtype:
            resident[contract.VISUAL_EMBEDS] = (visual.address, visual.shape)
        else:
            arrays[contract.VISUAL_EMBEDS] = to_engine(np.asarray(visual), dtype)
        inplace = self._entry.kv == "inplace"
        target = behind(self._blocks, cache, self._copy) if inplace and cache else self._blocks.free()
        source = target if inplace or not cache else cache.block
        lease = Lease(target)
        resident |= self._caches(source.memory, self._kv.rows if inplace else cache.lengths if cache else None)
        present = {
            name: target.memory.address + self._kv.region.offsets[past]
            for name, past in zip(self._present, self._past, strict=True)
        }
        single = not images and text == 1
        profile = (decode_profile if single else prefill_profile)(self._entry.decoder)
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        check_shapes(self._entry.decoder, profile, shapes | {name: shape for name, (_, shape) in resident.items()})
        outputs = self._lanes["decode" if single else "prefill"].call(arrays, resident, lambda _: present)
        images, text = images + (cache.images if cache else 0), text + (cache.text if cache else 0)
        after = TrtCache(target, tuple(images * keep + text for keep in self._keep), text, images)
        del lease
        return outputs, after

    def rows(self, cache: TrtCache) -> list[tuple[Array, Array]]:
        """See ``TrtBackend.rows``."""
        raw = np.asarray(GpuTensor(self._gpu, cache, (self._kv.region.nbytes,), "uint8", self._stream))
        inplace, (heads, size) = self._entry.kv == "inplace", self._kv.shape
        arrays = []
        for index, name in enumerate(self._past):
            layer = index // 2
            filled = cache.lengths[layer]
            # In place, visual rows end where the slots of text begin (docs/surgery.md).
            first = (self._entry.images - cache.images) * self._keep[layer] if inplace else 0
            shape = (1, heads, self._kv.rows[layer] if inplace else filled, size)
            start, nbytes = self._kv.region.offsets[name], math.prod(shape) * self._kv.itemsize
            values = to_host(raw[start : start + nbytes], self._kinds[name], shape)
            arrays.append(values[:, :, first : first + filled])
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def _caches(self, memory: Memory, rows: tuple[int, ...] | None) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Address and shape of every cache that is read; without ``rows`` they are empty."""
        heads, size = self._kv.shape
        return {
            name: (
                memory.address + self._kv.region.offsets[name],
                (1, heads, rows[index // 2] if rows else 0, size),
            )
            for index, name in enumerate(self._past)
        }

    def _allocate(self) -> Memory:
        memory = self._gpu.allocate(self._kv.region.nbytes, "caches of keys and values")
        # Attention gives masked slots no weight, but 0 times a NaN of unwritten memory is NaN.
        self._gpu.clear(memory.address, memory.nbytes, self._stream)
        return memory

    def _copy(self, target: Memory, source: Memory) -> None:
        self._gpu.copy(target.address, source.address, source.nbytes, self._stream)
