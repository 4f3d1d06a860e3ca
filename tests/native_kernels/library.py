"""Where the built libraries are, and how TensorRT gets the plugins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luvc_export.core import plugin_library
from luvc_export.errors import MachineError

LIBRARY_VARIABLE = "LUVC_NATIVE_LIBRARY"
LIBRARY_NAME, PLUGINS_NAME, BENCH_NAME = "libluvc_native.so", "libluvc_plugins.so", "luvc_bench"
BUILD_COMMAND = "cmake --preset host && cmake --build --preset host"


def find(name: str, path: Path | str | None = None) -> Path:
    """Where the built file ``name`` is: ``path``, else beside ``$LUVC_NATIVE_LIBRARY``, else newest under ``build/``.

    Raises:
        MachineError: It is nowhere; says how to build it.
    """
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if path is not None:
        candidates = [Path(path)]
    elif chosen:
        candidates = [Path(chosen).with_name(name)] if name != LIBRARY_NAME else [Path(chosen)]
    else:
        built = Path(__file__).resolve().parents[2].glob(f"build/*/plugins/**/{name}")
        candidates = sorted(built, key=lambda file: file.stat().st_mtime, reverse=True)
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    where = ", ".join(map(str, candidates)) or "build/*/plugins"
    fix = BUILD_COMMAND if name == LIBRARY_NAME else "build a CUDA preset, see plugins/README.md"
    raise MachineError(f"{name} is not built", where=where, fix=fix)


def load_plugins(registry: Any, path: Path | str | None = None) -> Path:
    """Register SpectrumPrune and OrthogonalMerge with TensorRT and return the library's path.

    Args:
        registry: ``tensorrt.get_plugin_registry()``, or a builder's or runtime's own.
        path: ``libluvc_plugins.so``; found as the native library is.

    Raises:
        MachineError: The library is not built, or TensorRT refused it (built for another major version, say).
        UsageError: It is another library of plugins.
    """
    library = find(PLUGINS_NAME, path)
    plugin_library.register(registry, library)
    return library
