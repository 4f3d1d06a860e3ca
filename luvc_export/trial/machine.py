"""What the machine is: device, versions, memory, power mode and clocks; no name of a host, a user or a file.

And what a trial could need and what of it the machine lacks, each in a few words.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from luvc_export.demo import CHECKPOINT
from luvc_export.engines import library, targets
from luvc_export.errors import LuvcError
from luvc_export.packing import device_facts
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.memory import available_bytes
from luvc_export.trial.steps import CHECKS, Asked
from luvc_export.version import VERSION

#: What decides what comes out, as ``pip list`` names it.
PACKAGES = (
    *("torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy"),
    *("tensorrt", "tensorrt-rtx"),
)
_CPUINFO = Path("/proc/cpuinfo")
_ASK_GPU = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")
_ASK_SECONDS = 10


def facts() -> dict[str, Any]:
    """Device, versions, memory, clocks."""
    gpu, memory = _gpu(), available_bytes()
    return {
        "device": gpu["name"] if gpu else _cpu(),
        "gpu": gpu,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_features": cpu_features(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"luvc-export": VERSION, "python": platform.python_version(), **versions()},
        "power": power(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def power(root: Path = Path("/")) -> dict[str, Any]:
    """Power mode and clocks, as far as the system says: of a Jetson, of the CPU, of the GPU."""
    device = device_facts.read(root)
    clocks = [asdict(clock) for clock in device.clocks]
    return {"board": device.model, "l4t": device.l4t, "power_mode": device.power_mode, "clocks": clocks, "gpu": _smi()}


def target_here() -> str | None:
    """The target whose engines this machine runs; else one that it can at least build for; None where there is none."""
    known = [targets.find(name) for name in targets.names()]
    engines = [each for each in known if each.library.backend in ("tensorrt", "tensorrt_rtx")]
    capability = library.compute_capability()
    able = [each for each in engines if library.why_not(each) is None]
    own = [each for each in able if each.device.compute_capability == capability]
    return next((each.name for each in (*own, *able)), None)


def runs(target: str) -> str | None:
    """Why this machine cannot run engines for ``target``; None if it can."""
    wanted, capability = targets.find(target).device.compute_capability, library.compute_capability()
    if capability is None:
        return "there is no NVIDIA GPU"
    return (
        None if capability == wanted else f"the GPU is of compute capability {capability}, the engines are for {wanted}"
    )


def _gpu() -> dict[str, Any] | None:
    try:
        gpu = Gpu()
        total = gpu.memory()[1]
    except LuvcError:
        return None
    info = gpu.info
    return {
        "name": info.name,
        "compute_capability": ".".join(map(str, info.capability)),
        "integrated": info.integrated,
        "driver_cuda": ".".join(map(str, info.driver)),
        "memory_gib": round(total / 2**30, 1),
    }


def _cpu() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or platform.machine()


def _smi() -> dict[str, str] | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={','.join(_ASK_GPU)}", "--format=csv,noheader", "--id=0"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(_ASK_GPU, (part.strip() for part in process.strip().split(",")), strict=False))


_EXPORT = ("torch", "transformers", "onnx", "onnxscript", "onnx_graphsurgeon", "safetensors")
_NO_TARGET = "no target is named, and none can be built for here"
_CPU = ("onnxruntime", "numpy", "PIL", "tokenizers", "jinja2")


def lacks(asked: Asked) -> dict[str, str | None]:
    """Of each need what is missing, None where nothing is."""
    return {
        "export": _packages(_EXPORT, "export"),
        "cpu": _packages(_CPU, "cpu"),
        "library": _NO_TARGET if asked.target is None else library.why_not(targets.find(asked.target)),
        "gpu": _NO_TARGET if asked.target is None else runs(asked.target),
        "any-gpu": None if library.compute_capability() else "there is no NVIDIA GPU",
        "checkout": None if CHECKS.is_file() else "this is no checkout of the project",
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
