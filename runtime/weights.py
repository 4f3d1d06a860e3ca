"""Weights that stay in the checkpoint (mode ``reference``): found, checked and memory-mapped, never copied."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import MANIFEST, Bundle
from luvc_export.bundle.manifest import Tensor
from luvc_export.errors import BundleError

#: Numpy type a tensor is mapped as, and its ONNX element type, by lower-case name (ours, numpy's, safetensors').
#: numpy has no bf16 and no fp8, so their bits are mapped.
DTYPES: dict[str, tuple[type[np.generic], int]] = {
    **dict.fromkeys(("fp32", "float32", "f32"), (np.float32, 1)),
    **dict.fromkeys(("fp16", "float16", "f16"), (np.float16, 10)),
    **dict.fromkeys(("bf16", "bfloat16"), (np.uint16, 16)),
    **dict.fromkeys(("fp8", "float8_e4m3fn", "f8_e4m3"), (np.uint8, 17)),
    **dict.fromkeys(("int64", "i64"), (np.int64, 7)),
    **dict.fromkeys(("int32", "i32"), (np.int32, 6)),
    **dict.fromkeys(("int8", "i8"), (np.int8, 3)),
    **dict.fromkeys(("uint8", "u8"), (np.uint8, 2)),
    **dict.fromkeys(("bool",), (np.bool_, 9)),
}


def reference_arrays(bundle: Bundle) -> dict[str, tuple[NDArray[Any], int]]:
    """Map every tensor of the manifest: name -> (read-only array, ONNX element type). Nothing is read yet.

    Raises:
        BundleError: The folder or a file is missing, too short or outside the folder, or a tensor's record is wrong.
    """
    manifest = bundle.manifest
    where = str(bundle.folder / MANIFEST)
    if manifest.weights.folder is None:
        raise BundleError("the weights lie in a checkpoint, but no folder is named", where=f"{where}: weights.folder")
    root = bundle.folder / manifest.weights.folder
    if not root.is_dir():
        raise BundleError(
            "the checkpoint this bundle takes its weights from is not there",
            where=str(root),
            got="no such folder",
            fix="put the checkpoint back, or export again with --weights copy",
        )
    files: dict[str, NDArray[np.uint8]] = {}
    arrays = {}
    for name, tensor in manifest.weights.tensors.items():
        if tensor.file not in files:
            files[tensor.file] = np.memmap(_inside(root, tensor.file), np.uint8, "r")
        arrays[name] = _view(files[tensor.file], name, tensor, f"{where}: weights.tensors.{name}")
    return arrays


def _view(file: NDArray[np.uint8], name: str, tensor: Tensor, where: str) -> tuple[NDArray[Any], int]:
    if tensor.dtype.lower() not in DTYPES:
        raise BundleError("unknown weight type", where=where, got=tensor.dtype, expected=", ".join(DTYPES))
    numpy_type, onnx_type = DTYPES[tensor.dtype.lower()]
    needed = math.prod(tensor.shape) * np.dtype(numpy_type).itemsize
    if tensor.bytes != needed or min((tensor.offset, *tensor.shape)) < 0:
        raise BundleError(
            "a weight's record does not add up",
            where=where,
            got=f"{tensor.bytes} bytes at {tensor.offset}",
            expected=f"{needed} bytes for {tensor.dtype} {list(tensor.shape)}",
        )
    if tensor.offset + needed > file.size:
        raise BundleError(
            "a checkpoint file is shorter than when the bundle was exported",
            where=f"{tensor.file} (weight {name!r})",
            got=f"{file.size} bytes",
            expected=f"at least {tensor.offset + needed}",
            fix="download the checkpoint again, or export again",
        )
    return file[tensor.offset : tensor.offset + needed].view(numpy_type).reshape(tensor.shape), onnx_type


def _inside(root: Path, name: str) -> Path:
    """Path of checkpoint file ``name``, which must lie in ``root``.

    A Hugging Face hub snapshot, ``models--x/snapshots/<commit>/``, holds links to ``models--x/blobs/<hash>``: links
    that stay inside that one ``models--x`` folder are followed, all others must stay inside ``root``.
    """
    path = (root / name).resolve()
    allowed = [root.resolve()]
    if root.resolve().parent.name == "snapshots":
        allowed.append(root.resolve().parent.parent / "blobs")
    climbs = Path(name).is_absolute() or ".." in Path(name).parts
    if climbs or not any(path.is_relative_to(folder) for folder in allowed):
        raise BundleError(
            "a weight lies outside the checkpoint folder",
            where=str(root),
            got=f"{name!r} -> {path}",
            expected="a file in that folder, or in the blobs of the same Hugging Face cache entry",
            fix="do not use this bundle; export it again from the checkpoint",
        )
    if not path.is_file() or not path.stat().st_size:
        raise BundleError(
            "a file of the checkpoint is missing",
            where=str(root / name),
            got="an empty file" if path.is_file() else "no such file",
            fix="download the checkpoint again, or export again with --weights copy",
        )
    return path
