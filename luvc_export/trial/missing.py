"""What a trial could need and what of it this machine lacks, each in a few words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from luvc_export.demo import CHECKPOINT
from luvc_export.engines import library, targets
from luvc_export.trial import machine, steps
from luvc_export.trial.steps import Asked

_EXPORT = ("torch", "transformers", "onnx", "onnxscript", "onnx_graphsurgeon", "safetensors")
_NO_TARGET = "no target is named, and none can be built for here"
_CPU = ("onnxruntime", "numpy", "PIL", "tokenizers", "jinja2")


def lacks(asked: Asked) -> dict[str, str | None]:
    """Of each need what is missing, None where nothing is."""
    return {
        "export": _packages(_EXPORT, "export"),
        "cpu": _packages(_CPU, "cpu"),
        "library": _NO_TARGET if asked.target is None else _build(asked.target),
        "gpu": _NO_TARGET if asked.target is None else machine.runs(asked.target),
        "any-gpu": None if library.compute_capability() else "there is no NVIDIA GPU",
        "checkout": None if steps.checkout() else "this is no checkout of the project",
    }


def weights_gib(model: str) -> float:
    """GiB of the checkpoint's weights, as far as they lie here; 0 where that is not known."""
    folder = Path(model)
    if not folder.is_dir():
        folder = _cached(model) or CHECKPOINT
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**30


def _cached(model: str) -> Path | None:
    """Folder of a hub repository in the local cache; nothing is downloaded."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except Exception:  # the client's errors derive from several libraries, and this is an estimate
        return None


def _packages(names: tuple[str, ...], extra: str) -> str | None:
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return f"no {', '.join(absent)} (pip install 'luvc-export[{extra}]')" if absent else None


def _build(target: str) -> str | None:
    return library.why_not(targets.find(target))
