"""The vision engine: pictures of the host or of the GPU, visual tokens that stay where they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np

from luvc_export.bundle.manifest import EngineFile
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_NAME
from luvc_export.errors import UsageError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.dlpack import CUDA, CUDA_MANAGED, Borrowed, borrow
from luvc_export.runtime.cuda.pool import Lease, Pool
from luvc_export.runtime.cuda.tensor import GpuTensor
from luvc_export.runtime.model import Array
from luvc_export.runtime.tensorrt.call import check_shapes
from luvc_export.runtime.tensorrt.execution_slot import ExecutionSlot
from luvc_export.runtime.tensorrt.memory_plan import ALIGNMENT


class TrtVision:
    """Runs the vision engine.

    Args:
        gpu: Where it runs.
        stream: Stream of the slot.
        slot: Of its only profile.
        file: What the manifest says of it.
    """

    def __init__(self, gpu: Gpu, stream: int, slot: ExecutionSlot, file: EngineFile) -> None:
        self._gpu, self._stream, self._slot, self._file = gpu, stream, slot, file
        output = next(binding for binding in file.outputs if binding.name == graph_io.VISUAL_EMBEDS)
        self._dtype = output.dtype
        images = file.profiles[0].maximum[graph_io.IMAGE][0]
        self._most = images * math.prod(output.shape[1:]) * BY_NAME[output.dtype].itemsize
        self._blocks = Pool(partial(gpu.allocate, self._most, "visual embeddings"))

    def __call__(self, images: Any, units: Array | None = None) -> dict[str, Array]:
        """See ``TrtBackend.vision``."""
        arrays: dict[str, Array] = {}
        resident: dict[str, tuple[int, tuple[int, ...]]] = {}
        borrowed = self._borrow(images)
        if borrowed is not None:
            resident[graph_io.IMAGE] = (borrowed.address, borrowed.shape)
        else:
            arrays[graph_io.IMAGE] = np.ascontiguousarray(images)
        pixels = borrowed or arrays[graph_io.IMAGE]
        shapes: dict[str, tuple[int, ...]] = {graph_io.IMAGE: tuple(pixels.shape)}
        for binding in (binding for binding in self._file.inputs if binding.name != graph_io.IMAGE):
            kind, plain = np.dtype(binding.dtype), np.zeros((pixels.shape[0], *binding.shape[1:]), binding.dtype)
            if binding.name == graph_io.UNITS:
                plain += np.arange(binding.shape[1], dtype=kind)
            arrays[binding.name] = np.ascontiguousarray(plain if units is None else units, kind)
            shapes[binding.name] = arrays[binding.name].shape
        if str(pixels.dtype) != "uint8":
            raise UsageError("pictures are bytes", where=graph_io.IMAGE, got=str(pixels.dtype), expected="uint8")
        check_shapes(self._file, 0, shapes)
        lease = Lease(self._blocks.free())
        sizes: dict[str, tuple[int, ...]] = {}

        def results(output_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
            sizes.update(output_shapes)
            return {graph_io.VISUAL_EMBEDS: lease.block.memory.address}

        outputs = self._slot.call(arrays, resident, results)
        embeds = GpuTensor(self._gpu, lease, sizes[graph_io.VISUAL_EMBEDS], self._dtype, self._stream)
        return {**outputs, graph_io.VISUAL_EMBEDS: cast(Array, embeds)}

    def _borrow(self, images: Any) -> Borrowed | None:
        """Pictures that lie on a GPU; None where they lie on the host."""
        if isinstance(images, np.ndarray) or not hasattr(images, "__dlpack_device__"):
            return None
        kind, ordinal = images.__dlpack_device__()
        if kind not in (CUDA, CUDA_MANAGED):
            return None
        if ordinal != self._gpu.ordinal:
            raise UsageError(
                "the pictures lie on another GPU", where=graph_io.IMAGE, got=ordinal, expected=self._gpu.ordinal
            )
        borrowed = borrow(images, graph_io.IMAGE, self._stream)
        if borrowed.address % ALIGNMENT:
            raise UsageError(
                "the pictures do not start where an engine can read them",
                where=graph_io.IMAGE,
                got=f"address {borrowed.address:#x}",
                expected=f"a multiple of {ALIGNMENT}",
                fix="pass a copy: tensor.clone()",
            )
        return borrowed
