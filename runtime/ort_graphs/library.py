"""ONNX Runtime itself: imported when asked for."""

from __future__ import annotations

from typing import Any

from luvc_export.errors import MachineError, UsageError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load_library(device: str) -> Any:
    """Import ``onnxruntime`` for ``cpu`` or ``cuda``.

    Raises:
        UsageError: Another device.
        MachineError: It is not installed, or has no provider for the device.
    """
    if device not in PROVIDERS:
        raise UsageError("unknown back-end", where="backend", got=device, expected=", ".join(PROVIDERS))
    try:
        import onnxruntime
    except ImportError as error:
        raise MachineError(
            "onnxruntime is not installed", got=str(error), fix="pip install onnxruntime (or onnxruntime-gpu for cuda)"
        ) from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise MachineError(
            "this ONNX Runtime has no CUDA",
            where=f"onnxruntime {onnxruntime.__version__}",
            got=", ".join(onnxruntime.get_available_providers()),
            expected=PROVIDERS[device],
            fix="pip install onnxruntime-gpu in place of onnxruntime, or choose the cpu back-end",
        )
    return onnxruntime
