"""TensorRT or TensorRT-RTX: imported when asked for, and what it says when it refuses an engine, in our words."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from mmap import mmap
from typing import Any

from luvc_export.core import plugin_library
from luvc_export.core.files.safe_files import temporary_folder, write_new
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
