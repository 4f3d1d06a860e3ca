"""TensorRT or TensorRT-RTX: imported when asked for, and engines with contexts that share one block of scratch memory.

What the library says when it refuses an engine is told in our words; what RTX adds to contexts is here too.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol

from luvc_export.bundle.manifest import EngineFile
from luvc_export.core import plugin_library
from luvc_export.core.files.folders import cache_folder, private_folder
from luvc_export.core.files.safe_files import read_own, temporary_folder, write_new, write_whole
from luvc_export.errors import BundleError, LuvcError, MachineError
from luvc_export.runtime.memory import SHORT_ON_GPU

_INSTALL = {
    "tensorrt": "pip install tensorrt (on a Jetson it comes with JetPack: python3-libnvinfer)",
    "tensorrt_rtx": "pip install 'luvc-export[rtx]'",
}
_KEPT_LINES = 3


def load_library(backend: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        MachineError: It is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError, RuntimeError) as error:
        raise MachineError(
            f"{backend} is not installed",
            where="the engines' library",
            got=f"{type(error).__name__}: {error}",
            fix=_INSTALL[backend],
        ) from error


def make_log(trt: Any) -> Any:
    """A logger that keeps warnings and errors in ``lines`` as (severity, text) and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[int, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.lines.append((int(severity), message))

    return Log()


def deserialize(
    trt: Any, log: Any, data: mmap | bytes, where: str, plugins: mmap | bytes | None = None
) -> tuple[Any, Any]:
    """The runtime and the engine in ``data``; both must live as long as the engine is used.

    ``plugins`` is loaded from a private copy: the bytes that were hashed, whatever becomes of the file in the bundle.

    Raises:
        BundleError: The library says the file is damaged or no engine of its own.
        MachineError: It was built by another version, or the machine has no GPU or too little memory, or TensorRT
            refuses the plugins.
        UsageError: The plugins are others.
    """
    runtime = trt.Runtime(log)
    if plugins is not None:
        with temporary_folder("luvc-plugins") as folder:
            copy = folder / "libluvc_plugins.so"
            write_new(copy, plugins)
            plugin_library.register(runtime.get_plugin_registry(), copy, log.lines, f"plugins of {where}")
    del log.lines[:]
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise refusal([text for _, text in log.lines], f"{trt.__name__} {trt.__version__}", where)
    return runtime, engine


def is_short(lines: Sequence[str]) -> bool:
    """Whether the library logged that there is not enough memory on the GPU."""
    log_text = "\n".join(lines).lower()
    return "out of memory" in log_text or "outofmemory" in log_text


def refusal(lines: Sequence[str], library: str, where: str) -> LuvcError:
    """The error for an engine that did not load, from what the library logged."""
    log_text = "\n".join(lines).lower()
    got = " | ".join(line.strip()[:300] for line in lines[:_KEPT_LINES]) or "nothing in the log"
    rebuild = "luvc-export build the engine again, with the version installed here"
    if "not compatible with this version" in log_text or "expecting library version" in log_text:
        return MachineError(
            "the engine was built by another version of TensorRT", where=where, got=got, expected=library, fix=rebuild
        )
    if "cannot run on this gpu" in log_text:
        fix = (
            "luvc-export build for a target of this GPU (luvc-export targets); TensorRT-RTX takes GeForce and RTX GPUs"
        )
        return MachineError("the engine is not for this GPU", where=where, got=got, expected=library, fix=fix)
    if is_short(lines):
        return MachineError(SHORT_ON_GPU, where=where, got=got, fix="close other programs, or build smaller engines")
    if any(sign in log_text for sign in ("header", "buffersize", "checksum", "magic")):
        return BundleError(
            "this is no whole engine of this library",
            where=where,
            got=got,
            expected=f"an engine of {library}",
            fix=rebuild,
        )
    if "cuda" in log_text:
        fix = "check the driver and the GPU (luvc-export doctor)"
        return MachineError("the engine cannot start on this machine", where=where, got=got, fix=fix)
    return BundleError(
        "the engine does not load", where=where, got=got, expected=f"an engine of {library}", fix=rebuild
    )


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
        keep: Runtime and logger (``make_log``), which must live as long as the engine.
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
