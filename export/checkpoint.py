"""A Hugging Face checkpoint on disk: config, and where every tensor's bytes lie. No weight is read here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.core.files.folders import check_name
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import open_regular
from luvc_export.demo import checkpoint_named
from luvc_export.errors import CheckpointError, LuvcError
from luvc_export.export import families, stored
from luvc_export.export.families.base import Family
from luvc_export.export.hub import download
from luvc_export.export.model_types import check_model_type
from luvc_export.export.stored.base import Stored
from luvc_export.export.stored.base import StoredTensor as StoredTensor

_HEADER_LIMIT = 100 * 2**20
_JSON_LIMIT = 64 * 2**20
#: Characters of a file's name; systems take no more.
_LONGEST_NAME = 255
_INDEX = "model.safetensors.index.json"
_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "context")
#: Largest number of a config's field, by a pattern of its name; the first that fits counts.
_MOST = ((r"layers|depth|blocks|indexes|experts", 4096), (r"size|dim|heads|rank|tokens|pixel", 2**26), ("", 2**40))
#: What would choose code: an attention implementation may name a repository of kernels, which transformers loads.
_NOT_THEIRS = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal", "auto_map"})
#: How it is quantised, which is read here and not by transformers.
_NOT_THEIRS |= {"quantization_config", "compression_config"}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; ``tensors`` is empty when only its config was asked for.

    ``method`` is its ``quant_method``; ``stored`` are its quantised modules, whose tensors are not among ``tensors``.
    """

    name: str
    revision: str | None
    folder: Path
    config: Any
    family: Family
    tensors: dict[str, StoredTensor]
    sha256: str
    method: str | None = None
    stored: Stored | None = None


def open_checkpoint(model: str, revision: str | None = None, weights: bool = True) -> Checkpoint:
    """Open a local folder or a hub id.

    Args:
        model: Folder with ``config.json``, a hub id such as ``Qwen/Qwen2.5-VL-3B-Instruct``, or ``demo``, the
            bundled one.
        revision: Hub branch, tag or commit.
        weights: Read the tensor headers too; False needs ``config.json`` alone.

    Raises:
        CheckpointError: Not found, no family, quantised in a way that is not read, or a weight file missing or
            truncated.
    """
    folder = Path(checkpoint_named(model))
    check_name(folder / "config.json", "the model")
    if not folder.is_dir():
        folder = download(model, revision, weights)
    raw = checkpoint_json(folder / "config.json")
    check_model_type(raw, str(folder / "config.json"))
    check_config(raw, str(folder / "config.json"))
    family = families.find(str(raw.get("model_type")), str(folder / "config.json"))
    settings = stored.settings(raw, str(folder / "config.json"))
    config = _config(raw, family, str(folder / "config.json"))
    tensors = _headers(folder) if weights else {}
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {tensor.bytes}\n".encode())
    quantised = stored.read(settings, tensors, str(folder / "config.json")) if settings and weights else None
    if quantised is not None:
        parts = {source for linear in quantised.linears for source in linear.sources}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in parts}
    method = str(settings["quant_method"]) if settings else None
    return Checkpoint(model, revision, folder, config, family, tensors, digest.hexdigest(), method, quantised)


def check_config(raw: Any, where: str) -> None:
    """Check every number of a config against what models have: loops count to some, arrays are made of others.

    Raises:
        CheckpointError: One is beyond; ``where`` names the file.
    """
    waiting = [("", raw)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            most = next(most for pattern, most in _MOST if re.search(pattern, name))
            if not -most <= value <= most:
                raise CheckpointError(
                    "a number of the config is beyond every model", where=f"{where}: {name}", got=value, expected=most
                )


def _config(raw: dict[str, Any], family: Family, where: str) -> Any:
    """The config as transformers has it, with what a checkpoint must not choose taken out, and sizes that add up."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[family.model_type].from_dict(_without(raw, _NOT_THEIRS))
        shape, unit = family.decoder_shape(config), family.unit_pixels(config)
        sides = family.image_size(config) or ()
        family.image_token_id(config)
        encoder = family.encoder_shape(config)
        sizes = {name: getattr(shape, name) for name in _SIZES} | {"encoder blocks": encoder.blocks or encoder.flops}
        for number, layer in enumerate(shape.per_layer):
            own, free = dataclasses.asdict(layer), {"reads", "mixer" if layer.kv_heads else "kv_heads"}
            sizes |= {f"{name} of layer {number}": value for name, value in own.items() if name not in free}
    except LuvcError:
        raise
    except Exception as error:  # transformers and torch raise whatever a wrong type leads to
        raise CheckpointError(
            "the config does not describe a model of its family",
            where=where,
            got=f"{type(error).__name__}: {str(error)[:300]}",
            fix="download the checkpoint again",
        ) from error
    if not 0 <= shape.shared < shape.layers:
        raise CheckpointError(
            "more layers share caches than there are layers with one",
            where=where,
            got=f"{shape.shared} of {shape.layers} layers",
            expected=f"at most {shape.layers - 1}",
        )
    sizes |= {"unit": unit, **{f"image side {index}": side for index, side in enumerate(sides)}}
    wrong = [name for name, value in sizes.items() if type(value) is not int or value < 1]
    if wrong:
        raise CheckpointError("sizes in the config are no whole numbers above 0", where=where, got=", ".join(wrong))
    return config


def _without(value: Any, names: frozenset[str]) -> Any:
    """A copy of JSON data without the fields called ``names``, at any depth."""
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


def checkpoint_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
        CheckpointError: The file is missing, or holds none.
    """
    if not path.exists():
        raise CheckpointError(
            "this folder is not a checkpoint", where=str(path.parent), got=f"no {path.name}", expected=path.name
        )
    data = read_json(path, _JSON_LIMIT, CheckpointError, "a file of the checkpoint")
    if not isinstance(data, dict):
        raise CheckpointError("a file of the checkpoint is not a JSON object", where=str(path))
    return data


def _headers(folder: Path) -> dict[str, StoredTensor]:
    if (folder / _INDEX).is_file():
        named = checkpoint_json(folder / _INDEX).get("weight_map")
        if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
            raise CheckpointError(
                "the index of the weights names no files",
                where=str(folder / _INDEX),
                got=repr(named)[:80],
                expected='"weight_map": {"TENSOR": "FILE", ...}',
                fix="download the checkpoint again",
            )
        files = sorted(set(named.values()))
    else:
        files = ["model.safetensors"]
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        path = folder / name
        if Path(name).name != name or "\0" in name or len(name) > _LONGEST_NAME or not path.is_file():
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
