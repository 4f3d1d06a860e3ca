"""A Hugging Face checkpoint on disk: config, and where every tensor's bytes lie. No weight is read here."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.errors import CheckpointError
from luvc_export.export import families
from luvc_export.export.families.base import Family
from luvc_export.export.hub import download
from luvc_export.export.model_types import check_model_type

_HEADER_LIMIT = 100 * 2**20
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: offset and length in ``file``; ``dtype`` is safetensors' name (F32, F16, BF16)."""

    file: Path
    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; ``tensors`` is empty when only its config was asked for."""

    name: str
    revision: str | None
    folder: Path
    config: Any
    family: Family
    tensors: dict[str, StoredTensor]
    sha256: str


def open_checkpoint(model: str, revision: str | None = None, weights: bool = True) -> Checkpoint:
    """Open a local folder or a hub id.

    Args:
        model: Folder with ``config.json``, or a hub id such as ``Qwen/Qwen2.5-VL-3B-Instruct``.
        revision: Hub branch, tag or commit.
        weights: Read the tensor headers too; False needs ``config.json`` alone.

    Raises:
        CheckpointError: Not found, no family, quantised, or a weight file missing or truncated.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = download(model, revision, weights)
    raw = read_json(folder / "config.json")
    check_model_type(str(raw.get("model_type")), str(folder / "config.json"))
    family = families.find(str(raw.get("model_type")), str(folder / "config.json"))
    if "quantization_config" in raw:
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise CheckpointError(
            "this checkpoint is already quantised",
            where=str(folder / "config.json"),
            got=f"quant_method {method}",
            expected="fp32, fp16 or bf16 weights",
            fix="export the original checkpoint and quantise the bundle",
        )
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    tensors = _headers(folder) if weights else {}
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {tensor.bytes}\n".encode())
    return Checkpoint(model, revision, folder, config, family, tensors, digest.hexdigest())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
        CheckpointError: The file is missing, or holds none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            "this folder is not a checkpoint", where=str(path.parent), got=f"no {path.name}", expected=path.name
        ) from error
    except ValueError as error:
        raise CheckpointError("a file of the checkpoint is not JSON", where=str(path), got=str(error)) from error
    if not isinstance(data, dict):
        raise CheckpointError("a file of the checkpoint is not a JSON object", where=str(path))
    return data


def _headers(folder: Path) -> dict[str, StoredTensor]:
    if (folder / _INDEX).is_file():
        files = sorted(set(read_json(folder / _INDEX).get("weight_map", {}).values()))
    else:
        files = ["model.safetensors"]
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
            raise CheckpointError(
                "a weight file of the checkpoint is missing",
                where=str(path),
                got="only pickled weights (.bin, .pth), which run code when loaded" if pickled else None,
                expected="safetensors",
                fix="convert with transformers' save_pretrained, or download the checkpoint again",
            )
        tensors |= _header(path)
    return tensors


def _header(path: Path) -> dict[str, StoredTensor]:
    """Read one safetensors header: 8 bytes of length, JSON, then the data it describes."""
    size = path.stat().st_size
    with path.open("rb") as file:
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


def _truncated(path: Path, got: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "a weight file of the checkpoint is truncated or damaged",
        where=str(path),
        got=got,
        expected=expected,
        fix="download or copy this file again",
    )
