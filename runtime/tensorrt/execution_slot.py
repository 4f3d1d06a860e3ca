"""One context with buffers of its own: host arrays in, one copy down, the engine, one copy up.

A call returns when it is on the stream (``start``) or when its outputs are there (``call``). Host memory comes in two
turns, so one call is prepared while another runs; all else is written and read in the order of the stream.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping

from luvc_export.bundle.manifest import EngineFile
from luvc_export.runtime.backend import Array
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.dlpack import ITEMSIZE
from luvc_export.runtime.cuda.tensor import to_host
from luvc_export.runtime.tensorrt.buffers import Buffer, Turn
from luvc_export.runtime.tensorrt.engine import Context
from luvc_export.runtime.tensorrt.graph_replay import Replay
from luvc_export.runtime.tensorrt.memory_plan import pack

_TURNS = 2

Shape = tuple[int, ...]


class Call:
    """A call on its way: outputs by name, once ``read`` has waited for them."""

    def __init__(self, turn: Turn, places: Mapping[str, tuple[int, str, Shape]]) -> None:
        self._turn, self._places = turn, places
        self._outputs: dict[str, Array] | None = None

    def read(self) -> dict[str, Array]:
        """The outputs that were asked for, floats as float32. Everything that stays on the GPU is complete too."""
        if self._outputs is None:
            self._turn.event.wait()
            raw, self._outputs = self._turn.made.array(), {}
            for name, (offset, kind, shape) in self._places.items():
                nbytes = math.prod(shape) * ITEMSIZE[kind]
                self._outputs[name] = to_host(raw[offset : offset + nbytes].copy(), kind, shape)
        return self._outputs


class Lane:
    """A context that takes arrays of the host and gives some back; tensors that stay on the GPU are named by address.

    Args:
        gpu: Where it runs.
        stream: Everything is put on this stream.
        context: Of one profile.
        scratch: Shared by all lanes of a stream: what contexts use while they run. They never run at once.
        file: What the manifest says of the engine.
        graphs: Capture CUDA graphs.
        front: Outputs that may be asked for alone; they lie side by side.
    """

    def __init__(
        self,
        gpu: Gpu,
        stream: int,
        context: Context,
        scratch: Buffer,
        file: EngineFile,
        graphs: bool,
        front: tuple[str, ...] = (),
    ) -> None:
        self._gpu, self._stream, self._context, self._scratch, self._file = gpu, stream, context, scratch, file
        self._given = Buffer(gpu, stream, f"inputs of {file.file}")
        self._made = Buffer(gpu, stream, f"outputs of {file.file}")
        self._turns = [Turn(gpu) for _ in range(_TURNS)]
        self._kinds = {binding.name: binding.dtype for binding in file.outputs}
        self._order = [*dict.fromkeys(name for name in (*front, *self._kinds) if name in self._kinds)]
        self._front = front
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
    ) -> Call:
        """Put a run of the engine on the stream.

        Args:
            arrays: Inputs on the host, in the engine's dtypes. They are copied before this returns.
            resident: Inputs on the GPU: address and shape.
            results: Given the shapes of all outputs, the addresses of those that stay on the GPU.
            copies: Outputs that are also copied to another address on the GPU.
            front: Bring only the outputs in front to the host.
        """
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        shapes |= {name: shape for name, (_, shape) in resident.items()}
        made = self._context.set_shapes(shapes)
        stay = results(made)
        sizes = {name: math.prod(made[name]) * ITEMSIZE[self._kinds[name]] for name in self._order}
        given = pack({name: array.nbytes for name, array in arrays.items()})
        back = pack({name: sizes[name] for name in self._order if name not in stay})
        asked = [name for name in back.offsets if not front or name in self._front]
        brought = max((back.offsets[name] + sizes[name] for name in asked), default=0)
        self._given.reserve(given.nbytes)
        self._made.reserve(back.nbytes)
        turn = self._turns[0]
        self._turns.append(self._turns.pop(0))
        turn.take(given.nbytes, brought)
        staging = turn.given.array()
        for name, offset in given.offsets.items():
            flat = arrays[name].reshape(-1).view("uint8")
            staging[offset : offset + flat.size] = flat
        addresses = {name: self._given.address + offset for name, offset in given.offsets.items()}
        addresses |= {name: address for name, (address, _) in resident.items()}
        addresses |= {name: self._made.address + offset for name, offset in back.offsets.items()} | dict(stay)
        scratch, copied = self._scratch.address, dict(copies or {})

        def work() -> None:
            self._context.enqueue(addresses, scratch, self._stream)
            for name, address in copied.items():
                self._gpu.copy(address, addresses[name], sizes[name], self._stream)

        self._gpu.upload(self._given.address, turn.given.address, given.nbytes, self._stream)
        self.replay.run((tuple(shapes.items()), tuple(addresses.items()), scratch, tuple(copied.items())), work)
        self._gpu.download(turn.made.address, self._made.address, brought, self._stream)
        turn.event.record(self._stream)
        call = Call(turn, {name: (back.offsets[name], self._kinds[name], made[name]) for name in asked})
        turn.leave = _reading(weakref.ref(call))
        return call


def _reading(call: weakref.ref[Call]) -> Callable[[], object]:
    """Take a call's outputs out of its turn, if anybody still holds the call."""

    def leave() -> None:
        held = call()
        if held is not None:
            held.read()

    return leave
