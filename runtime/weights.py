"""Weights that stay in the checkpoint (mode ``reference``): found, checked and memory-mapped, never copied."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import MANIFEST, Bundle
from luvc_export.bundle.manifest import WeightTensor
from luvc_export.bundle.weights_root import weights_root
from luvc_export.core.element_types import BY_ANY_NAME
from luvc_export.errors import BundleError


def reference_arrays(bundle: Bundle) -> dict[str, tuple[NDArray[Any], int]]:
    """Map every tensor of the manifest: name -> (read-only array, ONNX element type). Nothing is read yet.

    Raises:
        BundleError: The folder or a file is missing, too short or outside the folder, or a tensor's record is wrong.
    """
    manifest = bundle.manifest
    where = str(bundle.folder / MANIFEST)
    if manifest.weights.folder is None:
        raise BundleError("the weights lie in a checkpoint, but no folder is named", where=f"{where}: weights.folder")
    root = weights_root(bundle)
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


def _view(file: NDArray[np.uint8], name: str, tensor: WeightTensor, where: str) -> tuple[NDArray[Any], int]:
    if tensor.dtype.lower() not in BY_ANY_NAME:
        raise BundleError("unknown weight type", where=where, got=tensor.dtype, expected=", ".join(BY_ANY_NAME))
    kind = BY_ANY_NAME[tensor.dtype.lower()]
    numpy_type, onnx_type = np.dtype(kind.storage), kind.onnx
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
