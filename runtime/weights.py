"""Weights that stay in the checkpoint (mode ``reference``): checked and memory-mapped, never copied."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import MANIFEST, Bundle
from luvc_export.bundle.manifest import WeightTensor
from luvc_export.bundle.reference import watch_reference
from luvc_export.core.element_types import BY_ANY_NAME
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import BundleError


def reference_arrays(bundle: Bundle) -> dict[str, tuple[NDArray[Any], int]]:
    """Map every tensor of the manifest: name -> (read-only array, ONNX element type).

    Tensors are hashed first, unless it is remembered that this was done.

    Raises:
        BundleError: The folder or a file is missing, too short or outside the folder, a tensor's record is wrong, or
            its bytes are others.
    """
    where = str(bundle.folder / MANIFEST)
    tensors = bundle.manifest.weights.tensors
    for name, tensor in tensors.items():
        _check(tensor, f"{where}: weights.tensors.{name}")
    files: dict[str, NDArray[np.uint8]] = {}
    for file, watched in watch_reference(bundle.folder, bundle.manifest).items():
        with open_regular(watched.path) as opened:
            files[file] = np.memmap(opened, np.uint8, "r")
        watched.check()
    return {name: _view(files[tensor.file], tensor) for name, tensor in tensors.items()}


def _check(tensor: WeightTensor, where: str) -> None:
    if tensor.dtype.lower() not in BY_ANY_NAME:
        raise BundleError("unknown weight type", where=where, got=tensor.dtype, expected=", ".join(BY_ANY_NAME))
    needed = math.prod(tensor.shape) * BY_ANY_NAME[tensor.dtype.lower()].itemsize
    if tensor.bytes != needed or min((tensor.offset, *tensor.shape)) < 0:
        raise BundleError(
            "a weight's record does not add up",
            where=where,
            got=f"{tensor.bytes} bytes at {tensor.offset}",
            expected=f"{needed} bytes for {tensor.dtype} {list(tensor.shape)}",
        )


def _view(file: NDArray[np.uint8], tensor: WeightTensor) -> tuple[NDArray[Any], int]:
    kind = BY_ANY_NAME[tensor.dtype.lower()]
    part = file[tensor.offset : tensor.offset + tensor.bytes]
    return part.view(np.dtype(kind.storage)).reshape(tensor.shape), kind.onnx
