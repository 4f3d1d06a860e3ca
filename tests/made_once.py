"""What takes long to make, made once for all workers and kept between runs while nothing it is made from changes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from import_graph import ROOT, reached

from luvc_export.demo import CHECKPOINT

_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnx-graphsurgeon", "onnxslim")
_DAY = 86400.0


def made_once(cache: Path, maker: Path, make: Callable[[Path], object], sources: Iterable[Path] = ()) -> Path:
    """The folder that ``make`` writes, from ``cache`` or made there.

    Args:
        cache: Folder for this thing alone.
        maker: The file that says how it is made. It and all that it imports must be as they were.
        make: Given a folder that is not there, makes it.
        sources: Other files of the checkout that it is made from.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        folder = cache / _key(maker, sources)
        if not folder.is_dir():
            shutil.rmtree(part := cache / f"{folder.name}.part", ignore_errors=True)
            make(part)
            part.rename(folder)
        folder.touch()
        for old in cache.iterdir():
            if old.is_dir() and time.time() - old.stat().st_mtime > _DAY:
                shutil.rmtree(old)
        return folder


def _key(maker: Path, sources: Iterable[Path] = ()) -> str:
    """Hash of what the maker runs by the import graph, the checkpoint, other sources and the tools' versions."""
    digest = hashlib.sha256(" ".join(f"{tool} {version(tool)}" for tool in _TOOLS).encode())
    for path in sorted({*reached(maker), *CHECKPOINT.iterdir(), *sources, Path(__file__)}):
        digest.update(path.resolve().relative_to(ROOT).as_posix().encode() + b"\0" + _content(path))
    return digest.hexdigest()[:16]


def _content(path: Path) -> bytes:
    return path.read_bytes()
