"""A Hugging Face checkpoint, on disk or from the hub: config, and where tensors' bytes lie.

Opening one reads no weight; ``Checkpoint.widened`` reads them all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from luvc_export.core.files.folders import check_name
from luvc_export.core.files.json_file import read_json
from luvc_export.demo import checkpoint_named
from luvc_export.errors import CheckpointError, LuvcError, MachineError
from luvc_export.export import families, stored
from luvc_export.export.families.base import Family
from luvc_export.export.model_types import check_model_type
from luvc_export.export.reading.weight_files import WeightFiles, weight_files
from luvc_export.export.stored.base import Stored, array
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

    def widened(self) -> dict[str, torch.Tensor]:
        """Every tensor by its own name, quantised modules widened to fp32."""
        tensors = {}
        for name, tensor in self.tensors.items():
            values = array(tensor)
            if values.dtype == ml_dtypes.bfloat16:
                tensors[name] = torch.from_numpy(values.view(np.uint16).copy()).view(torch.bfloat16)
            else:
                tensors[name] = torch.from_numpy(values.copy())
        for linear in self.stored.linears if self.stored else ():
            tensors[f"{linear.name}.weight"] = torch.from_numpy(linear.read().widened())
        return tensors


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


#: What a bundle needs beside weights: nothing else of a repository is downloaded.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]

#: Libraries that versions of the hub's client speak HTTP with; not all of their errors derive from OSError.
_TRANSPORTS = ("httpx", "httpx2", "requests", "urllib3")

#: HTTP codes by which the hub says that there is nothing for us under a name.
_REFUSED = (401, 403, 404)


def download(model: str, revision: str | None, weights: bool) -> Path:
    """Folder of hub repository ``model`` in the local cache, downloaded where it is not there.

    Raises:
        CheckpointError: There is no such repository or revision, or it may not be read.
        MachineError: The hub cannot be reached, or fails, and the cache does not hold the checkpoint.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = _FILES if weights else [name for name in _FILES if name != "*.safetensors"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:
        if isinstance(error, HFValidationError | OSError) or type(error).__module__.split(".")[0] in _TRANSPORTS:
            raise _refusal(model, error) from error
        raise


def _refusal(model: str, error: Exception) -> LuvcError:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    message = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    code = _http_code(error)
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            "this checkpoint is gated", where=model, got=message, fix="ask for access on its page, then 'hf auth login'"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError("the checkpoint has no such revision", where=model, got=message, fix="check --revision")
    if isinstance(error, HFValidationError) or code in _REFUSED:
        return CheckpointError(
            "there is no such checkpoint",
            where=model,
            got=f"no folder of that name, and the hub says: {message}",
            expected="a local folder with config.json, or a hub id OWNER/NAME",
            fix="check the spelling, or run 'hf auth login' if the repository is private",
        )
    return MachineError(
        "the hub cannot be reached, and its cache here does not hold this checkpoint"
        if code is None
        else "the hub does not answer as it should",
        where=model,
        got=f"no folder of that name, and: {message}",
        expected="a network that reaches the hub, or a local folder with config.json",
        fix="check the path, the network, its proxy and HF_HUB_OFFLINE; or download it elsewhere and give the folder",
    )


def _http_code(error: BaseException | None) -> int | None:
    """What the hub answered with, by ``error`` or what caused it; None if nothing answered."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
