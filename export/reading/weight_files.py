"""Which files hold a checkpoint's weights, as transformers chooses them, and where each tensor lies in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import CheckpointError
from luvc_export.export.stored.base import StoredTensor

_HEADER_LIMIT = 100 * 2**20
_INDEX_LIMIT = 64 * 2**20
#: Characters of a file's name; systems take no more.
_LONGEST_NAME = 255
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
#: Field of config.json that names another file, which transformers then reads.
_NAMED = "transformers_weights"
_ENDS = (".safetensors", ".safetensors.index.json")
#: Bytes at the beginning, the middle and the end of a tensor that tell it from another: a note is not worth reading
#: two checkpoints of 72B whole each time that one is opened.
_SAMPLE = 2**16


class WeightFiles(NamedTuple):
    """``tensors`` by the checkpoint's names, and ``notes``: what a user should know of how they were chosen."""

    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...] = ()


def weight_files(folder: Path, config: Mapping[str, Any]) -> WeightFiles:
    """The tensors of a checkpoint: those of the file that its config names, else of the single one, else of the index.

    Args:
        folder: The checkpoint's.
        config: Its config.json.

    Raises:
        CheckpointError: A file is missing or damaged, or the index names none.
    """
    named = config.get(_NAMED)
    if named is not None and (not isinstance(named, str) or not named.endswith(_ENDS) or not _plain(named)):
        raise CheckpointError(
            "the config names no file of weights",
            where=f"{folder / 'config.json'}: {_NAMED}",
            got=repr(named)[:80],
            expected="the name of a .safetensors file of this folder, or of its index",
            fix=f"take the field out: {_SINGLE} or its index is read then",
        )
    present = [name for name in (_SINGLE, _INDEX) if (folder / name).is_file()] or [_SINGLE]
    read = present[0] if named is None else named
    tensors = _read(folder, read)
    return WeightFiles(tensors, _beside(folder, tensors, read, [name for name in present if name != read]))


def _read(folder: Path, name: str) -> dict[str, StoredTensor]:
    return _headers(folder, _shards(folder / name) if name.endswith(_ENDS[1]) else [name])


def _beside(folder: Path, tensors: dict[str, StoredTensor], read: str, present: list[str]) -> tuple[str, ...]:
    """What the files beside the one that is read say otherwise than that does."""
    notes = []
    for name in present:
        other = "the index" if name == _INDEX else name
        try:
            others = _read(folder, name)
        except CheckpointError as error:
            got = f" ({error.got})" if error.got else ""
            notes.append(f"{read} is read, as transformers does; {other} beside it cannot be: {error.what}{got}")
            continue
        odd = sorted(others.keys() ^ tensors.keys()) or [key for key in others if not _same(others[key], tensors[key])]
        if odd:
            holds = "the shards of the index beside it hold" if name == _INDEX else f"{name} beside it holds"
            notes.append(
                f"{read} is read, as transformers does; {holds} other weights, "
                f"{len(odd)} of {len(others | tensors)} tensors, first {odd[0]}: remove the older of the two"
            )
    return tuple(notes)


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are alike: type, shape, and bytes at three places (all of them up to ``3 * _SAMPLE``)."""
    if (one.dtype, one.shape, one.bytes) != (other.dtype, other.shape, other.bytes):
        return False
    with open_regular(one.file, links=True) as left, open_regular(other.file, links=True) as right:
        last = max(0, one.bytes - _SAMPLE)
        for begin in (0, last // 2, last):
            left.seek(one.offset + begin)
            right.seek(other.offset + begin)
            size = min(_SAMPLE, one.bytes - begin)
            if left.read(size) != right.read(size):
                return False
        return True


def _plain(name: str) -> bool:
    return Path(name).name == name and "\0" not in name and len(name) <= _LONGEST_NAME


def _shards(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        CheckpointError: It is no index, or names none.
    """
    if not index.is_file():
        raise CheckpointError("a weight file of the checkpoint is missing", where=str(index), expected="an index")
    data = read_json(index, _INDEX_LIMIT, CheckpointError, "a file of the checkpoint")
    named = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(
            "the index of the weights names no files",
            where=str(index),
            got=repr(named)[:80],
            expected='"weight_map": {"TENSOR": "FILE", ...}',
            fix="download the checkpoint again",
        )
    return sorted(set(named.values()))


def _headers(folder: Path, files: list[str]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        path = folder / name
        if not _plain(name) or not path.is_file():
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
            raise CheckpointError(
                "a weight file of the checkpoint is missing",
                where=str(path),
                got="only pickled weights (.bin, .pth), which run code when loaded" if pickled else None,
                expected="safetensors",
                fix="convert with transformers' save_pretrained, or download the checkpoint again",
            )
        header = _header(path)
        if not header or header.keys() & tensors.keys():
            twice = sorted(header.keys() & tensors.keys())
            raise CheckpointError(
                "a weight file of the checkpoint holds nothing, or what another one holds",
                where=str(path),
                got=f"tensor {twice[0]!r} twice" if twice else "no tensors",
                fix="download the checkpoint again",
            )
        tensors |= header
    return tensors


def _header(path: Path) -> dict[str, StoredTensor]:
    """Read one safetensors header: 8 bytes of length, JSON, then the data it describes."""
    _validate(path)
    size = path.stat().st_size
    with open_regular(path, links=True) as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise _truncated(path, f"{size} bytes", "a safetensors header")
        try:
            entries = json.loads(file.read(length))
        except ValueError as error:
            raise _truncated(path, str(error), "a JSON header") from error
    entries.pop("__metadata__", None)
    tensors = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end or 8 + length + end > size:
            raise _truncated(path, f"{size} bytes", f"at least {8 + length + end} (tensor {name})")
        tensors[name] = StoredTensor(path, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
    return tensors


def _validate(path: Path) -> None:
    """The library's own check: offsets that follow each other and end with the file, lengths of shape times type.

    Raises:
        CheckpointError: The library refuses the header.
    """
    from safetensors import SafetensorError, safe_open

    with open_regular(path, links=True):  # the library would wait for a pipe
        pass
    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise _truncated(path, str(error)[:300], "a safetensors file") from error


def _truncated(path: Path, got: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "a weight file of the checkpoint is truncated or damaged",
        where=str(path),
        got=got,
        expected=expected,
        fix="download or copy this file again",
    )
