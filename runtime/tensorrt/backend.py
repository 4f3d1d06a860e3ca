"""TensorRT and TensorRT-RTX as back-end: the engines of one plan, with every buffer planned and kept on the GPU."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np

from luvc_export.bundle.engines.checks import check_device, check_library
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineFile
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_NAME
from luvc_export.errors import LuvcError, MachineError, UsageError
from luvc_export.runtime.cuda.device import Gpu, stream_handle
from luvc_export.runtime.cuda.dlpack import CUDA, CUDA_MANAGED, Borrowed, borrow
from luvc_export.runtime.cuda.pool import Lease, Pool
from luvc_export.runtime.cuda.tensor import GpuTensor
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.memory import SHORT_ON_GPU, gib
from luvc_export.runtime.model import Array, Backend, Cache, Capabilities, PendingToken
from luvc_export.runtime.tensorrt.buffers import Buffer
from luvc_export.runtime.tensorrt.cache import TrtCache
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory
from luvc_export.runtime.tensorrt.call import check_shapes, decode_profile, prefill_profile, samples_tokens
from luvc_export.runtime.tensorrt.decoder import TrtDecoder, TrtToken
from luvc_export.runtime.tensorrt.engine import Engine, TrtEngine, runtime_cache_file
from luvc_export.runtime.tensorrt.execution_slot import ExecutionSlot
from luvc_export.runtime.tensorrt.factors import FactorSet, SetFactor, of_set
from luvc_export.runtime.tensorrt.library import deserialize, load_library, make_log
from luvc_export.runtime.tensorrt.memory_plan import ALIGNMENT, plan_kv
from luvc_export.runtime.tensorrt.row_caches import ConcatRows, InplaceRows
from luvc_export.runtime.tensorrt.slots import TrtSlots


class TrtBackend(Backend):
    """The engines of a plan, loaded when first used and kept until ``unload``. See docs/trt-runtime.md.

    Args:
        bundle: A checked bundle with engines.
        plan: Name of a plan; None for the bundle's default.
        target: Which engines, where the bundle has some for several targets.
        device: GPU, as CUDA counts.
        stream: The caller's stream, as ``cuda.stream_handle`` takes it; None for one of its own.
        graphs: Capture CUDA graphs.
        allow_unverified: Load engines that are not those ``luvc.json`` names. An engine is executable code.
        gpu: A GPU already opened, in place of ``device``.
        opener: Opens engines with another executor than the library they were built with.

    Raises:
        UsageError: The bundle has no such engines, or they hold no weights.
        BundleError: The engines do not fit the plan.
        MachineError: TensorRT or a GPU is missing, or they are not what the engines were built for.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        plan: str | None = None,
        target: str | None = None,
        *,
        device: int = 0,
        stream: Any = None,
        graphs: bool = True,
        allow_unverified: bool = False,
        gpu: Gpu | None = None,
        opener: Callable[[EngineFile], Engine] | None = None,
    ) -> None:
        self._bundle, self._plan = bundle, bundle.entry(plan).plan
        self._entry = entry = bundle.engine(plan, target)
        if entry.stripped:
            fix = f"luvc-export build --target {entry.target} without --strip-weights"
            raise UsageError("these engines have no weights", where=entry.decoder.file, fix=fix)
        self._kv = plan_kv(bundle.manifest.states_of(bundle.entry(plan)), self._plan, entry)
        self._graphs, self._unverified = graphs, allow_unverified
        self.arithmetic = entry.precision
        self.capabilities = Capabilities(
            rows=entry.batch,
            picks_tokens=samples_tokens(entry),
            device_slots=True,
            packs_weights=True,
            keeps_buckets=True,
        )
        if opener is None:
            self._trt = load_library(entry.backend)
            check_library(entry, entry.backend, self._trt.__version__)
        self.gpu = gpu or Gpu(device)
        self._capability = ".".join(map(str, self.gpu.info.capability))
        if opener is None:
            check_device(entry, self._capability, self.gpu.info.integrated)
        self._opener = opener or self._open_with_library
        self._stream = self.gpu.new_stream() if stream is None else stream_handle(stream)
        self._scratch = self._no_scratch()
        self._caches = CacheMemory(self.gpu, self._stream, self._kv, entry.batch)
        self._engines: dict[str, Engine] = {}
        #: What saves each engine's runtime cache, once: when it is unloaded, or when this object goes.
        self._saving: list[Callable[[], object]] = []
        self._slots_held: weakref.WeakSet[TrtSlots] = weakref.WeakSet()

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``. One that fails leaves nothing loaded."""
        self.gpu.activate()
        try:
            _ = self._decoder, self._vision if images else None
        except LuvcError:
            self.unload()
            raise

    def unload(self) -> None:
        """See ``Backend.unload``: engines, contexts, CUDA graphs, scratch and staging memory, and blocks nobody leases.

        States stay where they are, and rows that have not left: the decoder loaded again goes on with them.
        """
        self.gpu.activate()
        self.gpu.synchronize(self._stream)  # what is on its way reads the engines
        for name in ("_vision", "_decoder"):
            self.__dict__.pop(name, None)
        for save in self._saving:
            save()
        self._saving.clear()
        self._engines.clear()
        self._scratch = self._no_scratch()
        for rows in self._slots_held:
            rows.give_back()
        self._caches.give_back()

    def vision(self, images: Any, units: Array | None = None) -> dict[str, Array]:
        """See ``Backend.vision``. ``visual_embeds`` stays on the GPU (``GpuTensor``), where ``decode`` reads it.

        Args:
            images: uint8 [n, F, H, W, 3]: a host array, or a tensor of any library that lies on this GPU.
            units: See ``Backend.vision``; a host array.

        Raises:
            UsageError: More images than the engine takes, or another shape, dtype or GPU.
        """
        self.gpu.activate()
        return self._vision(images, units)

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Cache]:
        """See ``Backend.decode``.

        Raises:
            UsageError: The caches have no room, or ``cache`` is another back-end's.
        """
        self.gpu.activate()
        return self._decoder(feeds, cache)

    def ready(self, arrays: Mapping[str, Array]) -> dict[str, SetFactor]:
        """See ``Backend.ready``: the factors of a set, on the GPU until nobody holds them.

        Raises:
            MachineError: There is no memory for them.
        """
        self.gpu.activate()
        kinds = {binding.name: binding.dtype for binding in self._entry.decoder.inputs}
        known = {name: array for name, array in arrays.items() if name in kinds}
        return of_set(FactorSet(self.gpu, self._stream, known, kinds))

    def sample(
        self, feeds: Mapping[str, Array], cache: Cache | None, after: PendingToken | None
    ) -> tuple[PendingToken, Cache]:
        """See ``Backend.sample``: the token comes to the host, its logit with it, and no other logits.

        Raises:
            UsageError: See ``decode``; or the engines pick no tokens.
        """
        self.gpu.activate()
        return self._decoder.sample(feeds, cache, cast(TrtToken | None, after))

    def open_slots(self, graphs: Graphs) -> TrtSlots:
        """See ``Backend.open_slots``. Slots take a block of caches of their own when the first prompt joins.

        It stays theirs as long as these are held, or until an ``unload`` finds no row in it.
        """
        entry, form = self._entry, InplaceRows if self._entry.slots else ConcatRows
        take = partial(form, self.gpu, self._stream, self._caches, entry, self._plan, self._kv)
        rows = TrtSlots(graphs, self._active_decoder, take, self._caches, entry, self._kv.nbytes)
        self._slots_held.add(rows)
        return rows

    def _active_decoder(self) -> TrtDecoder:
        self.gpu.activate()
        return self._decoder

    def read_states(self, cache: TrtCache) -> list[Array]:
        """All that a conversation consists of, in graph order (``DecoderShape.kept``), copied to the host.

        Floats are float32, keys rotated [1, Hkv, rows, Dh]. Rows are in the order of ``contract``, visual before text,
        wherever the engines keep them.
        """
        self.gpu.activate()
        return self._decoder.states(cache)

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``; layers after the builder has fused them."""
        return {name: {self.gpu.info.name: engine.layers} for name, engine in self._engines.items()}

    @cached_property
    def _vision(self) -> TrtVision:
        file = self._entry.vision
        (slot,) = self._slots("vision", file, 0)()
        return TrtVision(self.gpu, self._stream, slot, file)

    @cached_property
    def _decoder(self) -> TrtDecoder:
        file = self._entry.decoder
        turns = 2 if self._kv.swapped.nbytes and self._graphs else 1
        (prefill,) = self._slots("decoder", file, prefill_profile(file))()
        decode = self._slots("decoder", file, *[decode_profile(file)] * turns)
        return TrtDecoder(self.gpu, self._stream, prefill, decode, self._entry, self._plan, self._kv, self._caches)

    def _no_scratch(self) -> Buffer:
        return Buffer(self.gpu, self._stream, "scratch memory of the engines")

    def _slots(self, name: str, file: EngineFile, *profiles: int) -> Callable[[], list[ExecutionSlot]]:
        """What makes slots of an engine, with a context each: a graph of one stays valid while another runs."""
        if not self._engines:
            self._check_memory()
        if name not in self._engines:
            self._engines[name] = opened = self._opener(file)
            self._saving.append(weakref.finalize(self, opened.save_runtime_cache))
        self._scratch.reserve(self._engines[name].scratch_bytes)
        engine, gpu, stream, scratch = self._engines[name], self.gpu, self._stream, self._scratch
        graphs = self._graphs and not engine.captures_itself
        front = (graph_io.NEXT_TOKEN, graph_io.NEXT_LOGIT)

        def make() -> list[ExecutionSlot]:
            contexts = [engine.context(profile, stream) for profile in profiles]
            return [ExecutionSlot(gpu, stream, context, scratch, file, graphs, front) for context in contexts]

        return make

    def _open_with_library(self, file: EngineFile) -> Engine:
        data = self._bundle.read_engine(file, self._unverified)
        library = self._entry.plugins
        plugins = None if library is None else self._bundle.read_engine(library, self._unverified)
        log = make_log(self._trt)
        runtime, engine = deserialize(self._trt, log, data, str(self._bundle.folder / file.file), plugins)
        cache = runtime_cache_file(file, self._trt.__version__, self._capability)
        static = self._entry.slots or file is self._entry.vision
        return TrtEngine(self._trt, (runtime, log), engine, file, static and self._graphs, cache)

    def _check_memory(self) -> None:
        """Refuse engines that cannot fit before any is read, by the prediction made when they were built.

        Caches of conversations that were there before an unload are there still.
        """
        free, total = self.gpu.memory()
        footprint = self._entry.footprint
        footprint = replace(footprint, kv=max(0, footprint.kv - self._caches.nbytes))
        needed = footprint.peak if self.gpu.info.integrated else footprint.running
        if needed > free:
            raise MachineError(
                SHORT_ON_GPU,
                where=str(self._bundle.folder),
                got=f"{gib(free)} of {gib(total)} free",
                expected=f"{gib(needed)} for weights, caches and activations",
                fix="close other programs on the GPU, or use engines with fewer images, less text or lower budgets",
            )


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
