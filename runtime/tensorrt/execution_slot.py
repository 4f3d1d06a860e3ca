"""One context with buffers of its own: host arrays in, one copy down, the engine, one copy up.

A call returns when it is on the stream (``start``) or when its outputs are there (``call``). Host memory comes in two
turns, so one call is prepared while another runs; all else is written and read in the order of the stream.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Hashable, Mapping

from luvc_export.bundle.manifest import EngineFile
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_NAME
from luvc_export.errors import LuvcError
from luvc_export.runtime.cuda.device import Buffer, CudaGraph, Gpu, StagingBuffer
from luvc_export.runtime.cuda.tensor import to_host
from luvc_export.runtime.model import Array
from luvc_export.runtime.tensorrt.engine import Context
from luvc_export.runtime.tensorrt.memory_plan import pack

_STAGING = 2
#: Outputs that may be asked for alone; they lie side by side.
_FRONT = (graph_io.NEXT_TOKEN, graph_io.NEXT_LOGIT)

Shape = tuple[int, ...]


class Call:
    """A call on its way: outputs by name, once ``read`` has waited for them."""

    def __init__(self, staging: StagingBuffer, regions: Mapping[str, tuple[int, str, Shape]]) -> None:
        self._turn, self._regions = staging, regions
        self._outputs: dict[str, Array] | None = None

    def read(self) -> dict[str, Array]:
        """The outputs that were asked for, floats as float32. Everything that stays on the GPU is complete too."""
        if self._outputs is None:
            self._turn.event.wait()
            raw, self._outputs = self._turn.made.array(), {}
            for name, (offset, kind, shape) in self._regions.items():
                nbytes = math.prod(shape) * BY_NAME[kind].itemsize
                self._outputs[name] = to_host(raw[offset : offset + nbytes].copy(), kind, shape)
        return self._outputs


class ExecutionSlot:
    """A context that takes arrays of the host and gives some back; tensors that stay on the GPU are named by address.

    Args:
        gpu: Where it runs.
        stream: Everything is put on this stream.
        context: Of one profile.
        scratch: Shared by all slots of a stream: what contexts use while they run. They never run at once.
        file: What the manifest says of the engine.
        graphs: Capture CUDA graphs.
    """

    def __init__(
        self, gpu: Gpu, stream: int, context: Context, scratch: Buffer, file: EngineFile, graphs: bool
    ) -> None:
        self._gpu, self._stream, self._context, self._scratch, self._file = gpu, stream, context, scratch, file
        self._given = Buffer(gpu, stream, f"inputs of {file.file}")
        self._made = Buffer(gpu, stream, f"outputs of {file.file}")
        self._staging = [StagingBuffer(gpu) for _ in range(_STAGING)]
        self._kinds = {binding.name: binding.dtype for binding in file.outputs}
        self._order = [*dict.fromkeys(name for name in (*_FRONT, *self._kinds) if name in self._kinds)]
        self.replay = Replay(gpu, stream, graphs)

    def call(
        self,
        arrays: Mapping[str, Array],
        resident: Mapping[str, tuple[int, Shape]],
        results: Callable[[Mapping[str, Shape]], Mapping[str, int]],
    ) -> dict[str, Array]:
        """Run the engine and wait for all its outputs; see ``start``."""
        return self.start(arrays, resident, results).read()

    def start(
        self,
        arrays: Mapping[str, Array],
        resident: Mapping[str, tuple[int, Shape]],
        results: Callable[[Mapping[str, Shape]], Mapping[str, int]],
        copies: Mapping[str, int] | None = None,
        front: bool = False,
        after: Callable[[], object] = lambda: None,
    ) -> Call:
        """Put a run of the engine on the stream.

        Args:
            arrays: Inputs on the host, in the engine's dtypes. They are copied before this returns.
            resident: Inputs on the GPU: address and shape.
            results: Given the shapes of all outputs, the addresses of those that stay on the GPU.
            copies: Outputs that are also copied to another address on the GPU.
            front: Bring only the outputs in front to the host.
            after: Puts on the stream what comes behind the engine and is in no graph.
        """
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        shapes |= {name: shape for name, (_, shape) in resident.items()}
        fresh = self._context.set_shapes(shapes)
        stay = results(fresh)
        sizes = {name: math.prod(fresh[name]) * BY_NAME[self._kinds[name]].itemsize for name in self._order}
        packed = pack({name: array.nbytes for name, array in arrays.items()})
        back = pack({name: sizes[name] for name in self._order if name not in stay})
        asked = [name for name in back.offsets if not front or name in _FRONT]
        brought = max((back.offsets[name] + sizes[name] for name in asked), default=0)
        self._given.reserve(packed.nbytes)
        self._made.reserve(back.nbytes)
        staging = self._staging[0]
        self._staging.append(self._staging.pop(0))
        staging.take(packed.nbytes, brought)
        host = staging.given.array()
        for name, offset in packed.offsets.items():
            flat = arrays[name].reshape(-1).view("uint8")
            host[offset : offset + flat.size] = flat
        addresses = {name: self._given.address + offset for name, offset in packed.offsets.items()}
        addresses |= {name: address for name, (address, _) in resident.items()}
        addresses |= {name: self._made.address + offset for name, offset in back.offsets.items()} | dict(stay)
        scratch, copied = self._scratch.address, dict(copies or {})

        def work() -> None:
            self._context.enqueue(addresses, scratch, self._stream)
            for name, address in copied.items():
                self._gpu.copy(address, addresses[name], sizes[name], self._stream)

        self._gpu.upload(self._given.address, staging.given.address, packed.nbytes, self._stream)
        self.replay.run((tuple(shapes.items()), tuple(addresses.items()), scratch, tuple(copied.items())), work)
        after()
        self._gpu.download(staging.made.address, self._made.address, brought, self._stream)
        staging.event.record(self._stream)
        call = Call(staging, {name: (back.offsets[name], self._kinds[name], fresh[name]) for name in asked})
        staging.leave = _reading(weakref.ref(call))
        return call


def _reading(call: weakref.ref[Call]) -> Callable[[], object]:
    """Take a call's outputs out of its staging buffer, if anybody still holds the call."""

    def leave() -> None:
        held = call()
        if held is not None:
            held.read()

    return leave


class Replay:
    """Runs work of a stream, as a CUDA graph from the second time it is the same.

    TensorRT's first run with new shapes may do what cannot be captured, and a context that runs with other shapes
    makes a graph of it worthless (TensorRT developer guide, "CUDA Graphs"): so one graph, captured at the second run.
    Where the driver or the engine refuses, it warns once and runs plainly from then on.
    """

    def __init__(self, gpu: Gpu, stream: int, enabled: bool) -> None:
        self._gpu, self._stream, self._enabled = gpu, stream, enabled
        self._key: Hashable = None
        self.graph: CudaGraph | None = None

    def run(self, key: Hashable, work: Callable[[], object]) -> None:
        """Run ``work``; an equal ``key`` promises equal shapes and addresses."""
        if key != self._key:
            self._drop()
            self._key = key
            return self._plain(work)
        if self.graph is None and self._enabled:
            try:
                self.graph = self._gpu.capture(self._stream, work)
            except LuvcError as error:
                self._enabled = False
                warnings.warn(f"no CUDA graph, steps are launched one by one: {error}", RuntimeWarning, stacklevel=5)
        if self.graph is None:
            return self._plain(work)
        return self.graph.launch(self._stream)

    def _drop(self) -> None:
        if self.graph is not None:
            self._gpu.synchronize(self._stream)  # it may still run
            self.graph = None

    @staticmethod
    def _plain(work: Callable[[], object]) -> None:
        work()
