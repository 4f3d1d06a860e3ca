"""Where measured and compiled kernels are kept: one file for each library, version and compute capability.

TensorRT measures kernels while it builds (timing cache); TensorRT-RTX compiles them on the device when they are first
used (runtime cache, written by whoever runs the engine). Neither is valid for another version or GPU, so both are in
the name. They belong to the user, not to a bundle: a runtime cache is executable code, and bundles are untrusted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from luvc_export.core.files.safe_files import read_own, write_whole
from luvc_export.errors import UsageError

CacheKind = Literal["timing", "runtime"]


def cache_file(kind: CacheKind, backend: str, version: str, compute_capability: str) -> Path:
    """Path such as ``~/.cache/luvc-export/tensorrt-10.3.0.26-sm87.timing``; its folder may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    sm = compute_capability.replace(".", "")
    return Path(root) / "luvc-export" / f"{backend}-{version}-sm{sm}.{kind}"


def attach(config: Any, path: Path, named: bool = True) -> Any:
    """Give a builder configuration the timing cache at ``path``, empty where there is none; return it.

    One that nobody ``named``, of the cache folder, is empty where another user may have written it.

    Raises:
        UsageError: The file is not a timing cache of this version and GPU.
    """
    data = (path.read_bytes() if path.is_file() else b"") if named else read_own(path) or b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            "this is no timing cache of this TensorRT and this GPU",
            where=str(path),
            fix="name another --timingCacheFile, delete the file, or pass --noBuilderCache",
        )
    return cache


def save(cache: Any, path: Path) -> None:
    """Write a timing cache whole or not at all."""
    write_whole(path, bytes(memoryview(cache.serialize())))
