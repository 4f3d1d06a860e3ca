"""One context with buffers of its own: host arrays in, one copy down, the engine, one copy up, as a CUDA graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping

from luvc_export.errors import LuvcError
from luvc_export.manifest_engines import EngineFile
from luvc_export.runtime.backend import Array
from luvc_export.runtime.cuda import Gpu, Graph
from luvc_export.runtime.cuda_dlpack import ITEMSIZE
from luvc_export.runtime.cuda_tensor import to_host
from luvc_export.runtime.trt_engine import Context
from luvc_export.runtime.trt_plan import pack


class Buffer:
    """Page-locked host memory and as much on the GPU; grows, and keeps its addresses until it does."""

    def __init__(self, gpu: Gpu, what: str) -> None:
        self._gpu, self._what = gpu, what
        self.host, self.device = gpu.pinned(0), gpu.allocate(0, what)

    def reserve(self, nbytes: int) -> None:
        """Have room for ``nbytes``; what was there before is lost if it must grow."""
        if nbytes > self.host.nbytes:
            self.host, self.device = self._gpu.pinned(nbytes), self._gpu.allocate(nbytes, self._what)


class Scratch:
    """Memory that contexts use while they run. Those of one stream never run at once, so they share one block.

    It has the size of the one that needs most.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._memory = gpu.allocate(0, "scratch memory of the engines")

    def reserve(self, nbytes: int) -> None:
        """Have room for ``nbytes``."""
        if nbytes > self._memory.nbytes:
            self._memory = self._gpu.allocate(nbytes, "scratch memory of the engines")

    @property
    def address(self) -> int:
        """Device address; it changes when more is reserved."""
        return self._memory.address


class Replay:
    """Runs work of a stream, as a CUDA graph from the second time it is the same.

    TensorRT's first run with new shapes may do what cannot be captured, and a context that runs with other shapes
    makes a graph of it worthless (TensorRT developer guide, "CUDA Graphs"): so one graph, captured at the second run.
    Where the driver or the engine refuses, it warns once and runs plainly from then on.
    """

    def __init__(self, gpu: Gpu, stream: int, enabled: bool) -> None:
        self._gpu, self._stream, self._enabled = gpu, stream, enabled
        self._key: Hashable = None
        self.graph: Graph | None = None

    def run(self, key: Hashable, work: Callable[[], object]) -> None:
        """Run ``work``; an equal ``key`` promises equal shapes and addresses."""
        if key != self._key:
            self._key, self.graph = key, None
            return self._plain(work)
        if self.graph is None and self._enabled:
            try:
                self.graph = self._gpu.capture(self._stream, work)
            except LuvcError as error:
                self._enabled = False
                warnings.warn(f"no CUDA graph, steps are launched one by one: {error}", RuntimeWarning, stacklevel=4)
        if self.graph is None:
            return self._plain(work)
        return self.graph.launch(self._stream)

    @staticmethod
    def _plain(work: Callable[[], object]) -> None:
        work()


class Lane:
    """A context that takes arrays of the host and gives some back; tensors that stay on the GPU are named by address.

    Args:
        gpu: Where it runs.
        stream: Everything is put on this stream.
        context: Of one profile.
        scratch: Shared by all lanes of a stream.
        file: What the manifest says of the engine.
        graphs: Capture CUDA graphs.
    """

    def __init__(
        self, gpu: Gpu, stream: int, context: Context, scratch: Scratch, file: EngineFile, graphs: bool
    ) -> None:
        self._gpu, self._stream, self._context, self._scratch, self._file = gpu, stream, context, scratch, file
        self._given, self._made = Buffer(gpu, f"inputs of {file.file}"), Buffer(gpu, f"outputs of {file.file}")
        self.replay = Replay(gpu, stream, graphs)

    def call(
        self,
        arrays: Mapping[str, Array],
        resident: Mapping[str, tuple[int, tuple[int, ...]]],
        results: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, int]],
    ) -> dict[str, Array]:
        """Run the engine.

        Args:
            arrays: Inputs on the host, in the engine's dtypes.
            resident: Inputs on the GPU: address and shape.
            results: Given the shapes of all outputs, the addresses of those that stay on the GPU.

        Returns:
            The other outputs, floats as float32. They are complete; so is everything that stays on the GPU.
        """
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        shapes |= {name: shape for name, (_, shape) in resident.items()}
        made = self._context.set_shapes(shapes)
        stay = results(made)
        kinds = {binding.name: binding.dtype for binding in self._file.outputs}
        given = pack({name: array.nbytes for name, array in arrays.items()})
        back = pack({name: math.prod(made[name]) * ITEMSIZE[kinds[name]] for name in made if name not in stay})
        down, up = self._given, self._made
        down.reserve(given.nbytes)
        up.reserve(back.nbytes)
        staging = down.host.array()
        for name, offset in given.offsets.items():
            flat = arrays[name].reshape(-1).view("uint8")
            staging[offset : offset + flat.size] = flat
        addresses = {name: down.device.address + offset for name, offset in given.offsets.items()}
        addresses |= {name: address for name, (address, _) in resident.items()}
        addresses |= {name: up.device.address + offset for name, offset in back.offsets.items()} | dict(stay)

        scratch = self._scratch.address

        def work() -> None:
            self._gpu.upload(down.device.address, down.host.address, given.nbytes, self._stream)
            self._context.enqueue(addresses, scratch, self._stream)
            self._gpu.download(up.host.address, up.device.address, back.nbytes, self._stream)

        self.replay.run((tuple(shapes.items()), tuple(addresses.items()), scratch), work)
        self._gpu.synchronize(self._stream)
        raw = up.host.array()
        outputs = {}
        for name, offset in back.offsets.items():
            nbytes = math.prod(made[name]) * ITEMSIZE[kinds[name]]
            outputs[name] = to_host(raw[offset : offset + nbytes].copy(), kinds[name], made[name])
        return outputs
