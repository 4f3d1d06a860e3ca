"""Checkpoints of strangers: headers that do not add up, indexes that name nothing, configs that choose code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import CheckpointError
from luvc_export.export import weights
from luvc_export.export.checkpoint import open_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def header(path: Path, change: Any) -> None:
    """Rewrite a safetensors file with another header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header_fields = json.loads(data[8 : 8 + length])
    change(header_fields)
    encoded = json.dumps(header_fields).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data[8 + length :])


def overlap(fields: dict[str, Any]) -> None:
    first, second = [name for name in fields if name != "__metadata__"][:2]
    fields[second]["data_offsets"] = fields[first]["data_offsets"]


def other_shape(fields: dict[str, Any]) -> None:
    name = next(name for name in fields if name != "__metadata__")
    fields[name]["shape"] = [1]


@pytest.mark.parametrize("change", [overlap, other_shape, dict.clear])
def test_headers_that_do_not_add_up_are_refused(checkpoint: Path, change: Any) -> None:
    header(checkpoint / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("weight_map", [{}, [], None, {"a": 1}, {"a": "gone.safetensors"}, {"a": "../x"}])
def test_an_index_that_names_nothing_is_refused(checkpoint: Path, weight_map: Any) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "x")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError):
        open_checkpoint(str(checkpoint))


def changed(checkpoint: Path, **fields: Any) -> Any:
    path = checkpoint / "config.json"
    data = json.loads(path.read_text())
    data |= fields
    data["vision_config"] |= {name: value for name, value in fields.items() if name.startswith(("attn", "_attn"))}
    path.write_text(json.dumps(data))
    return open_checkpoint(str(checkpoint), weights=False).config


def test_a_config_chooses_no_attention_and_no_code(checkpoint: Path) -> None:
    plain = open_checkpoint(str(checkpoint), weights=False).config
    theirs = "stranger/kernels"
    config = changed(
        checkpoint, attn_implementation=theirs, _attn_implementation=theirs, auto_map={"AutoConfig": theirs}
    )
    assert config._attn_implementation == plain._attn_implementation != theirs
    assert theirs not in json.dumps(config.to_dict(), default=str)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**9},
        {"hidden_size": "wide"},
        {"vision_config": {"depth": 10**9}},
        {"max_position_embeddings": 10**30},
        {"quantization_config": [1]},
        {"vision_config": {"depth": -1}},
    ],
)
def test_a_config_beyond_every_model_is_refused(checkpoint: Path, fields: dict[str, Any]) -> None:
    path = checkpoint / "config.json"
    data = json.loads(path.read_text())
    for name, value in fields.items():
        data[name] = value
        if isinstance(data.get("text_config"), dict):
            data["text_config"][name] = value
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(str(checkpoint), weights=False)


@pytest.mark.parametrize(("field", "value"), [("hidden_act", "xyzzy"), ("hidden_act", 7), ("rope_type", "xyzzy")])
def test_what_transformers_does_not_know_is_the_config_s_fault(checkpoint: Path, field: str, value: object) -> None:
    """They were KeyErrors of transformers, told as a bug of ours."""
    data = json.loads((checkpoint / "config.json").read_text())
    for part in (data, data.get("text_config", {})):
        if field == "hidden_act":
            part[field] = value
        else:
            for name in ("rope_parameters", "rope_scaling"):
                part[name] = {**(part.get(name) or {}), "rope_type": value}
    (checkpoint / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"transformers makes no model of this config|does not describe a model"):
        weights.skeleton(open_checkpoint(str(checkpoint)), "fp32")
