"""The demo bundle, exported once for all workers and kept between runs while nothing it is made from changes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import Bundle, load
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

ROOT = Path(__file__).resolve().parents[1]
PLANS = ("none", "even", "thirds")
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnx-graphsurgeon", "onnxslim")
_DAY = 86400.0


def demo_bundle(cache: Path) -> Bundle:
    """The bundled checkpoint with ``PLANS`` and debug decoders, from ``cache`` or exported there."""
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        folder = cache / _key()
        if not folder.is_dir():
            plans = {name: make_plan(str(CHECKPOINT), name, image_size=IMAGE_SIZE) for name in PLANS}
            export_bundle(str(CHECKPOINT), folder, plans, image_size=IMAGE_SIZE, text_capacity=256, debug=True)
        folder.touch()
        for old in cache.iterdir():
            if old.is_dir() and time.time() - old.stat().st_mtime > _DAY:
                shutil.rmtree(old)
        return load(folder)


def _key() -> str:
    """Hash of the sources, the checkpoint and the tools' versions."""
    digest = hashlib.sha256(" ".join(f"{tool} {version(tool)}" for tool in _TOOLS).encode())
    for path in _sources():
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield from sorted((ROOT / "luvc_export").glob("*.py"))
    yield from sorted((ROOT / "export").rglob("*.py"))
    yield from sorted(CHECKPOINT.iterdir())
    yield Path(__file__)
