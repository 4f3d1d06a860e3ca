"""What takes long to make, made once for all workers and kept between runs while nothing it is made from changes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from luvc_export.demo import CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnx-graphsurgeon", "onnxslim")
_DAY = 86400.0


def made_once(cache: Path, maker: Path, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` writes, from ``cache`` or made there.

    Args:
        cache: Folder for this thing alone.
        maker: The file that says how it is made.
        make: Given a folder that is not there, makes it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        folder = cache / _key(maker)
        if not folder.is_dir():
            shutil.rmtree(part := cache / f"{folder.name}.part", ignore_errors=True)
            make(part)
            part.rename(folder)
        folder.touch()
        for old in cache.iterdir():
            if old.is_dir() and time.time() - old.stat().st_mtime > _DAY:
                shutil.rmtree(old)
        return folder


def _key(maker: Path) -> str:
    """Hash of the maker, the sources, the checkpoint and the tools' versions."""
    digest = hashlib.sha256(" ".join(f"{tool} {version(tool)}" for tool in _TOOLS).encode())
    for path in (maker, *_sources()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield from sorted((ROOT / "luvc_export").glob("*.py"))
    yield from sorted((ROOT / "export").rglob("*.py"))
    yield from sorted(CHECKPOINT.iterdir())
    yield Path(__file__)
    yield ROOT / "tests" / "cut_checkpoint.py"
