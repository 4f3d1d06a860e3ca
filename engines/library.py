"""The TensorRT of this machine, imported when needed; version and GPU are checked against the target first."""

from __future__ import annotations

import ctypes
import importlib
import platform
from typing import Any

from luvc_export.core.target import Library, Target
from luvc_export.errors import MachineError, UsageError

_GET = {
    "tensorrt_rtx": "pip install 'luvc-export[rtx]' (Linux, x86-64)",
    "tensorrt": "it comes with JetPack on a Jetson; elsewhere see https://docs.nvidia.com/deeplearning/tensorrt",
    "onnxruntime": "pip install 'luvc-export[cpu]'",
    "openvino": "pip install 'luvc-export[openvino]'",
}
#: These run graphs, and no engine is built for them.
_RUN_AS_THEY_ARE = ("onnxruntime", "openvino")
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h


def load(library: Library) -> Any:
    """Import the Python module of ``library``.

    Raises:
        MachineError: It is not installed, cannot be loaded, or is of another version.
    """
    try:
        module = importlib.import_module(library.backend)
    except (ImportError, OSError) as error:
        raise MachineError(
            f"{library.backend} is not installed", got=str(error), expected=library.range, fix=_GET[library.backend]
        ) from error
    if not library.takes(module.__version__):
        raise MachineError(
            f"{library.backend} of this version does not build for the target",
            got=module.__version__,
            expected=library.range,
            fix=f"pip install '{library.range.replace(' ', '').replace('_', '-')}', or choose another --target",
        )
    return module


def compute_capability() -> str | None:
    """Compute capability of the first GPU, such as 8.7, from the CUDA driver; None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, values = ctypes.c_int(), (ctypes.c_int * 2)()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for index, attribute in enumerate((_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR)):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        values[index] = value.value
    return f"{values[0]}.{values[1]}"


def check_builds(target: Target) -> None:
    """Check that this machine can build for ``target``, the library aside.

    Raises:
        UsageError: The target runs the bundle's graphs as they are.
        MachineError: It needs another kind of machine or GPU.
    """
    if target.library.backend in _RUN_AS_THEY_ARE:
        raise UsageError(
            "this target runs the bundle's own graphs: there is no engine to build",
            where=f"--target {target.name}",
            fix="luvc-export run BUNDLE",
        )
    if target.device.machine not in (None, platform.machine()):
        raise MachineError(
            "engines for this target are built on the device itself",
            where=target.title,
            got=platform.machine(),
            expected=target.device.machine,
            fix=f"luvc-export pack BUNDLE --target {target.name} -o DIR, and run install-and-verify on the device",
        )
    capability = compute_capability()
    if not target.library.cross_build and capability != target.device.compute_capability:
        raise MachineError(
            "TensorRT times kernels on the GPU it builds for",
            where=target.title,
            got="no GPU" if capability is None else f"a GPU of compute capability {capability}",
            expected=f"compute capability {target.device.compute_capability}",
            fix="build on such a GPU, or for a target that builds anywhere (luvc-export targets)",
        )


def why_not(target: Target) -> str | None:
    """Why this machine cannot build for ``target`` (or run it, where nothing is built), in a few words; else None."""
    if target.device.machine not in (None, platform.machine()):
        return "built on the board (pack)"
    capability = compute_capability()
    if not target.library.cross_build and capability != target.device.compute_capability:
        return "no such GPU"
    try:
        module = load(target.library)
    except MachineError as error:
        return error.what
    place = target.device.openvino
    if place and not any(name.split(".")[0] == place for name in module.Core().available_devices):
        return f"OpenVINO finds no {place}"
    return None
