"""TensorRT and TensorRT-RTX as back-end: the engines of one plan, with every buffer planned and kept on the GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

from luvc_export.bundle.engines.checks import check_device, check_library
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineFile
from luvc_export.errors import LuvcError, UsageError
from luvc_export.runtime.cuda.device import Buffer, Gpu, stream_handle
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.model import Array, Backend, Cache, Capabilities, PendingToken
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory, TrtCache
from luvc_export.runtime.tensorrt.call import (
    decode_profile,
    prefill_profile,
    samples_tokens,
)
from luvc_export.runtime.tensorrt.decoder import TrtDecoder, TrtToken
from luvc_export.runtime.tensorrt.engine import (
    Engine,
    TrtEngine,
    deserialize,
    load_library,
    make_log,
    runtime_cache_file,
)
from luvc_export.runtime.tensorrt.execution_slot import ExecutionSlot
from luvc_export.runtime.tensorrt.factors import FactorSet, SetFactor, of_set
from luvc_export.runtime.tensorrt.memory_plan import plan_kv
from luvc_export.runtime.tensorrt.slots import TrtSlots
from luvc_export.runtime.tensorrt.vision import TrtVision


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
        rows = TrtSlots(graphs, self._active_decoder, self._caches, self._entry, self._plan)
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
        return TrtDecoder(prefill, decode, self._entry, self._plan, self._caches)

    def _no_scratch(self) -> Buffer:
        return Buffer(self.gpu, self._stream, "scratch memory of the engines")

    def _slots(self, name: str, file: EngineFile, *profiles: int) -> Callable[[], list[ExecutionSlot]]:
        """What makes slots of an engine, with a context each: a graph of one stays valid while another runs."""
        if not self._engines:
            self._caches.check_fits(self._entry.footprint, str(self._bundle.folder))
        if name not in self._engines:
            self._engines[name] = opened = self._opener(file)
            self._saving.append(weakref.finalize(self, opened.save_runtime_cache))
        self._scratch.reserve(self._engines[name].scratch_bytes)
        engine, gpu, stream, scratch = self._engines[name], self.gpu, self._stream, self._scratch
        graphs = self._graphs and not engine.captures_itself

        def make() -> list[ExecutionSlot]:
            contexts = [engine.context(profile, stream) for profile in profiles]
            return [ExecutionSlot(gpu, stream, context, scratch, file, graphs) for context in contexts]

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
