"""A Hugging Face checkpoint on disk: config, and where every tensor's bytes lie. No weight is read here."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.core.files.folders import check_name
from luvc_export.core.files.json_file import read_json
from luvc_export.demo import checkpoint_named
from luvc_export.errors import CheckpointError, LuvcError
from luvc_export.export import families, stored
from luvc_export.export.families.base import Family
from luvc_export.export.hub import download
from luvc_export.export.model_types import check_model_type
from luvc_export.export.reading.weight_files import WeightFiles, weight_files
from luvc_export.export.stored.base import Stored
from luvc_export.export.stored.base import StoredTensor as StoredTensor

_JSON_LIMIT = 64 * 2**20
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
    ``notes`` are what a user should know of how its weights were chosen.
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
    notes: tuple[str, ...] = ()


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
    tensors, notes = weight_files(folder, raw) if weights else WeightFiles({})
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {tensor.bytes}\n".encode())
    quantised = stored.read(settings, tensors, str(folder / "config.json")) if settings and weights else None
    if quantised is not None:
        parts = {source for linear in quantised.linears for source in linear.sources}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in parts}
    method = str(settings["quant_method"]) if settings else None
    return Checkpoint(model, revision, folder, config, family, tensors, digest.hexdigest(), method, quantised, notes)


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
