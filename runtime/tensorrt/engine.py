"""A deserialised engine: execution contexts that share one block of scratch memory, and what RTX adds to them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from luvc_export.bundle.manifest import EngineFile
from luvc_export.core.files.folders import cache_folder, private_folder
from luvc_export.core.files.safe_files import read_own, write_whole
from luvc_export.errors import BundleError, MachineError
from luvc_export.runtime.memory import SHORT_ON_GPU
from luvc_export.runtime.tensorrt.library import is_short


class Context(Protocol):
    """Runs an engine with one optimisation profile."""

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Set the shape of every input and return those of the outputs."""

    def enqueue(self, addresses: Mapping[str, int], scratch: int, stream: int) -> None:
        """Put a run on ``stream``, with the device address of every input and output and of scratch memory."""


class Engine(Protocol):
    """What a back-end needs of an engine; ``TrtEngine`` on a GPU."""

    @property
    def scratch_bytes(self) -> int:
        """Bytes a context needs while it runs."""

    @property
    def layers(self) -> int:
        """Layers after optimisation."""

    @property
    def captures_itself(self) -> bool:
        """The library makes CUDA graphs on its own."""

    def context(self, profile: int, stream: int) -> Context:
        """A context for ``profile``; it has no scratch memory of its own."""

    def save_runtime_cache(self) -> None:
        """Keep what was compiled on this device for the next start."""


class TrtContext:
    """``Context`` of TensorRT or TensorRT-RTX."""

    def __init__(self, context: Any, scratch_bytes: int, outputs: tuple[str, ...], where: str) -> None:
        self._context, self._scratch_bytes, self._outputs, self._where = context, scratch_bytes, outputs, where
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._fresh: dict[str, tuple[int, ...]] | None = None
        self._addresses: dict[str, int] = {}

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """See ``Context.set_shapes``; the library is told what has changed alone: slots have hundreds of inputs."""
        for name, shape in shapes.items():
            if self._shapes.get(name) == shape:
                continue
            self._fresh = None
            self._shapes.pop(name, None)
            if not self._context.set_input_shape(name, shape):
                raise BundleError("the engine refuses a shape", where=f"{self._where}: {name}", got=list(shape))
            self._shapes[name] = shape
        if self._fresh is None:
            self._fresh = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
        return self._fresh

    def enqueue(self, addresses: Mapping[str, int], scratch: int, stream: int) -> None:
        """See ``Context.enqueue``."""
        self._context.set_device_memory(scratch, self._scratch_bytes)
        for name, address in addresses.items():
            if self._addresses.get(name) == address:
                continue
            self._addresses.pop(name, None)
            if not self._context.set_tensor_address(name, address):
                raise BundleError("the engine refuses a tensor", where=f"{self._where}: {name}")
            self._addresses[name] = address
        if not self._context.execute_async_v3(stream):
            raise MachineError("the engine did not run", where=self._where, fix="luvc-export doctor")


class TrtEngine:
    """``Engine`` of TensorRT or TensorRT-RTX.

    Args:
        trt: The module ``tensorrt`` or ``tensorrt_rtx``.
        keep: Runtime and logger (``library.make_log``), which must live as long as the engine.
        engine: ICudaEngine.
        file: What the manifest says of it.
        static: Shapes of a decode step do not change, so graphs the library makes on its own are worth their capture.
        runtime_cache: File with kernels compiled on this device (TensorRT-RTX).

    Raises:
        BundleError: The engine's inputs and outputs are not those of the manifest.
    """

    def __init__(
        self, trt: Any, keep: tuple[Any, Any], engine: Any, file: EngineFile, static: bool, runtime_cache: Path | None
    ) -> None:
        self._trt, self._keep, self._engine, self._file, self._cache_file = trt, keep, engine, file, runtime_cache
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        listed = {binding.name for binding in (*file.inputs, *file.outputs)}
        if names != listed or engine.num_optimization_profiles != len(file.profiles):
            raise BundleError(
                "the engine is not the one the manifest describes",
                where=file.file,
                got=f"{engine.num_optimization_profiles} profiles, {sorted(names ^ listed)} on one side only",
                expected=f"{len(file.profiles)} profiles",
                fix="luvc-export build the engine again",
            )
        self.captures_itself = False
        self._runtime_cache: Any = None
        self._config = self._configure(static)

    @property
    def scratch_bytes(self) -> int:
        """See ``Engine.scratch_bytes``."""
        return int(self._engine.device_memory_size_v2)

    @property
    def layers(self) -> int:
        """See ``Engine.layers``."""
        return int(self._engine.num_layers)

    def context(self, profile: int, stream: int) -> Context:
        """See ``Engine.context``."""
        strategy = self._config or self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        log = self._keep[1].lines
        del log[:]
        context = self._engine.create_execution_context(strategy)
        if context is None:
            lines = [text for _, text in log]
            what = SHORT_ON_GPU if is_short(lines) else "the engine cannot start"
            got = " | ".join(lines) or "nothing in the log"
            raise MachineError(what, where=self._file.file, got=got, fix="free memory on the GPU")
        if profile and not context.set_optimization_profile_async(profile, stream):
            raise BundleError("the engine refuses a profile", where=self._file.file, got=profile)
        outputs = tuple(binding.name for binding in self._file.outputs)
        return TrtContext(context, self.scratch_bytes, outputs, self._file.file)

    def save_runtime_cache(self) -> None:
        """See ``Engine.save_runtime_cache``. A folder that cannot be written costs only time at the next start."""
        if self._runtime_cache is None or self._cache_file is None:
            return
        try:
            private_folder(self._cache_file.parent)
            write_whole(self._cache_file, bytes(self._runtime_cache.serialize()))
        except OSError as error:
            warnings.warn(f"the runtime cache is not kept: {error}", RuntimeWarning, stacklevel=2)

    def _configure(self, static: bool) -> Any:
        """What only TensorRT-RTX has: a runtime cache, and graphs that wait for specialised kernels; else None."""
        make = getattr(self._engine, "create_runtime_config", None)
        config = make() if make else None
        if config is None or not hasattr(config, "create_runtime_cache"):
            return None
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        strategies = self._trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if static else strategies.DISABLED
        self.captures_itself = True
        self._runtime_cache = config.create_runtime_cache()
        kernels = None if self._cache_file is None else read_own(self._cache_file)
        if kernels is not None:
            self._runtime_cache.deserialize(kernels)
        config.set_runtime_cache(self._runtime_cache)
        return config


def runtime_cache_file(file: EngineFile, version: str, capability: str) -> Path:
    """Where the kernels compiled for an engine are kept: in the user's cache folder, since they are executable code."""
    return cache_folder() / f"{file.record.sha256[:16]}-{version}-sm{capability}.rtx-cache"
