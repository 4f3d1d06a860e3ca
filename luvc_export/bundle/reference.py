"""Weights that stay in the checkpoint (mode ``reference``): found in its folder, and hashed tensor by tensor."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from luvc_export.bundle import hashing
from luvc_export.bundle.hashing import Identity, OnBytes, WatchedFile
from luvc_export.bundle.manifest import Manifest, WeightTensor
from luvc_export.core.element_types import BY_ANY_NAME
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import BundleError

_CHUNK = 2**20


def checkpoint_folder(folder: Path, manifest: Manifest) -> Path:
    """The checkpoint's folder, as a bundle in ``folder`` names it.

    Raises:
        BundleError: None is named, or it is not there.
    """
    if manifest.weights.folder is None:
        raise BundleError(
            "the weights lie in a checkpoint, but no folder is named", where=f"{folder / 'luvc.json'}: weights.folder"
        )
    root = folder / manifest.weights.folder
    if not root.is_dir():
        raise BundleError(
            "the checkpoint this bundle takes its weights from is not there",
            where=str(root),
            got="no such folder",
            fix="put the checkpoint back, or export again with --weights copy",
        )
    return root


def check_reference(
    folder: Path, manifest: Manifest, full: bool = False, on_bytes: OnBytes = lambda count: None
) -> dict[str, tuple[Path, Identity]]:
    """Hash every tensor that the bundle takes from its checkpoint, unless it is remembered that this was done.

    Args:
        folder: The bundle's.
        manifest: The bundle's.
        full: Hash them even then.
        on_bytes: Told how many bytes more were hashed.

    Returns:
        Of each file of the checkpoint its path, links followed, and its identity.

    Raises:
        BundleError: The folder or a file is missing or outside, a record is wrong, or a tensor is another.
    """
    root = checkpoint_folder(folder, manifest)
    by_file: dict[str, dict[str, WeightTensor]] = {}
    for name, tensor in manifest.weights.tensors.items():
        by_file.setdefault(tensor.file, {})[name] = tensor
    checked = {}
    for file, tensors in by_file.items():
        path = inside_checkpoint(root, file)
        with open_regular(path) as opened:
            identity = hashing.settled(opened)
            _check_places(file, tensors, identity.size, str(folder / "luvc.json"))
            what = _said(tensors)
            if full or not hashing.known(identity, what):
                _check_tensors(opened, path, tensors, on_bytes)
                if Identity.of(os.fstat(opened.fileno())) != identity:
                    raise _other(path, "a file that changes while it is read", "")
                hashing.remember(identity, what)
        checked[file] = path, identity
    return checked


def watch_reference(folder: Path, manifest: Manifest) -> dict[str, WatchedFile]:
    """``check_reference``, for readers that open the files themselves."""
    checked = check_reference(folder, manifest)

    def watched(file: str) -> WatchedFile:
        path, identity = checked[file]
        return WatchedFile(path, identity, lambda: check_reference(folder, manifest)[file][1])

    return {file: watched(file) for file in checked}


def hashes(manifest: Manifest) -> bool:
    """Whether the manifest says what the checkpoint's tensors are; bundles of 0.1.0 do not."""
    return all(tensor.sha256 for tensor in manifest.weights.tensors.values())


def tensor_sha256(path: Path, offset: int, count: int, on_bytes: OnBytes = lambda count: None) -> str:
    """Hash ``count`` bytes of a file.

    Raises:
        BundleError: The file ends before.
    """
    with open_regular(path, links=True) as file:
        return _sha256(file, path, offset, count, on_bytes)


def inside_checkpoint(root: Path, name: str) -> Path:
    """Path of checkpoint file ``name``, which must lie in ``root``.

    A Hugging Face hub snapshot, ``models--x/snapshots/<commit>/``, holds links to ``models--x/blobs/<hash>``: links
    that stay inside that one ``models--x`` folder are followed, all others must stay inside ``root``.
    """
    try:
        path = (root / name).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links
        raise BundleError("a weight lies in a file that cannot be", where=str(root), got=repr(name)) from error
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


def _check_places(file: str, tensors: dict[str, WeightTensor], size: int, where: str) -> None:
    for name, tensor in tensors.items():
        kind, record = BY_ANY_NAME.get(tensor.dtype.lower()), f"{where}: weights.tensors.{name}"
        if kind is None:
            raise BundleError("unknown weight type", where=record, got=tensor.dtype, expected=", ".join(BY_ANY_NAME))
        needed = math.prod(tensor.shape) * kind.itemsize
        if tensor.bytes != needed or min((tensor.offset, *tensor.shape)) < 0:
            raise BundleError(
                "a weight's record does not add up",
                where=record,
                got=f"{tensor.bytes} bytes at {tensor.offset}",
                expected=f"{needed} bytes for {tensor.dtype} {list(tensor.shape)}",
            )
        if tensor.offset + tensor.bytes > size:
            raise BundleError(
                "a checkpoint file is shorter than when the bundle was exported",
                where=f"{file} (weight {name!r})",
                got=f"{size} bytes",
                expected=f"at least {tensor.offset + tensor.bytes}",
                fix="download the checkpoint again, or export again",
            )


def _check_tensors(file: IO[bytes], path: Path, tensors: dict[str, WeightTensor], on_bytes: OnBytes) -> None:
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.sha256 is None:
            continue
        digest = _sha256(file, path, tensor.offset, tensor.bytes, on_bytes)
        if digest != tensor.sha256:
            raise _other(path, f"sha256 {digest[:16]}... of weight {name!r}", f"sha256 {tensor.sha256[:16]}...")


def _sha256(file: IO[bytes], path: Path, offset: int, count: int, on_bytes: OnBytes) -> str:
    digest = hashlib.sha256()
    file.seek(offset)
    left = count
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise _other(path, f"{count - left} bytes at {offset}", f"{count} bytes")
        digest.update(chunk)
        left -= len(chunk)
        on_bytes(len(chunk))
    return digest.hexdigest()


def _said(tensors: dict[str, WeightTensor]) -> str:
    """What the manifest says of one file, in short."""
    places: Iterable[tuple[int, int, str | None]] = ((t.offset, t.bytes, t.sha256) for t in tensors.values())
    return "tensors " + hashlib.sha256(json.dumps(sorted(places, key=str)).encode()).hexdigest()


def _other(path: Path, got: str, expected: str) -> BundleError:
    return BundleError(
        "the checkpoint's weights are not those the bundle was exported from",
        where=str(path),
        got=got,
        expected=expected or None,
        fix="download the checkpoint again, or export the bundle again",
    )
