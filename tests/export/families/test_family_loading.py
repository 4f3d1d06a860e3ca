"""Checkpoints as they come: hub names, shards, 16-bit, tied heads; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import MADE_HERE, case
from safetensors.torch import load_file, save_file

from luvc_export.errors import CheckpointError, MachineError
from luvc_export.export import weights
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.families.base import Normalise
from luvc_export.export.llm.span import empty_caches

FAMILIES = MADE_HERE
#: Names in the original repository that transformers renames: (what is there, what it becomes).
HUB_NAMES = {
    "qwen2_5_vl": ("visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
    "qwen2_vl": ("model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
    "llava": ("language_model.model.norm.weight", "model.language_model.norm.weight"),
    "internvl": ("vision_tower.encoder.layer.0.lambda_1", "model.vision_tower.encoder.layer.0.lambda_1"),
    "gemma3": ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
}


def _same(folder: Path, model: Any) -> None:
    """Every parameter of the model is found, under its own name, with its own bytes."""
    checkpoint = open_checkpoint(str(folder))
    skeleton = weights.skeleton(checkpoint, "fp32")
    places = weights.stored(skeleton.model, checkpoint)
    wanted = dict(model.named_parameters())
    assert set(wanted) <= {*places, "lm_head.weight"}
    for name, parameter in wanted.items():
        place = places[name]
        raw = np.fromfile(place.file, np.uint8, place.bytes, offset=place.offset)
        stored = torch.from_numpy(raw).view(
            {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[place.dtype]
        )
        assert torch.equal(stored.reshape(place.shape), parameter), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_is_found_tensor_by_tensor(name: str, tmp_path: Path) -> None:
    """``save_pretrained`` writes the names of the original repositories."""
    tiny = case(name)
    tiny.model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    if name in HUB_NAMES:
        theirs, ours = HUB_NAMES[name]
        assert theirs in stored
        assert ours not in stored
    assert open_checkpoint(str(tmp_path)).family is tiny.family
    _same(tmp_path, tiny.model)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_halves_run_without_a_weight(name: str, tmp_path: Path) -> None:
    """What is traced are stand-ins for weights; nothing else may have stayed behind on the meta device."""
    tiny = case(name)
    tiny.config.save_pretrained(tmp_path)
    skeleton = weights.skeleton(open_checkpoint(str(tmp_path), weights=False), "bf16")
    assert {parameter.dtype for parameter in skeleton.model.parameters()} == {torch.bfloat16}
    vision = tiny.family.vision(skeleton.model, tiny.thirds, Normalise(1 / 255, [0.5] * 3, [0.5] * 3))
    seen = harness.encode_images(tiny, tiny.thirds, tiny.images(1), vision)
    decoder = tiny.family.decoder(skeleton.model, tiny.thirds)
    run = harness.lay_out(tiny, tiny.thirds, tiny.prompt(1), *seen[:2])
    past = empty_caches(tiny.family.decoder_shape(tiny.config), 1, torch.bfloat16)
    with torch.no_grad():
        logits, presents, _ = decoder(*run.inputs(), past)
    assert seen[0].dtype == torch.bfloat16
    assert seen[1].dtype == torch.float32
    assert logits.dtype == torch.float32
    states = tiny.family.decoder_shape(tiny.config).kept
    kinds = [getattr(torch, state.dtype) if state.dtype else torch.bfloat16 for state in states]
    assert [present.dtype for present in presents] == kinds


def test_newer_names_are_found_too(tmp_path: Path) -> None:
    tiny = case("qwen2_5_vl")
    tiny.config.save_pretrained(tmp_path)
    state = {name: value.contiguous() for name, value in tiny.model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    _same(tmp_path, tiny.model)


def test_shards(tmp_path: Path) -> None:
    tiny = case("qwen2_5_vl")
    tiny.model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    _same(tmp_path, tiny.model)
    min(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"a weight file of the checkpoint is missing\n.*model-00001"):
        open_checkpoint(str(tmp_path))


def test_bf16(tmp_path: Path) -> None:
    tiny = harness.build(case("llava").family, case("llava").config)
    half = tiny.model.to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    _same(tmp_path, half)


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    tiny = case("qwen2_vl")
    assert tiny.config.tie_word_embeddings
    tiny.model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = weights.skeleton(open_checkpoint(str(tmp_path)), "fp32").model
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tiny = case("internvl")
    tiny.model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored.pop("multi_modal_projector.linear_1.bias")
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing, first model\.multi_modal_projector\.linear_1\.bias"):
        weights.skeleton(open_checkpoint(str(tmp_path)), "fp32")


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao"])
def test_other_quantised_checkpoints_are_refused(tmp_path: Path, method: str) -> None:
    case("qwen2_vl").config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(CheckpointError, match=f"quant_method {method}(.|\n)*quantise its bundle"):
        open_checkpoint(str(tmp_path))


def test_fp16(tmp_path: Path) -> None:
    tiny = harness.build(case("qwen2_vl").family, case("qwen2_vl").config)
    half = tiny.model.to(torch.float16)
    half.save_pretrained(tmp_path)
    _same(tmp_path, half)


def test_a_hub_name_with_a_revision_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache alone, laid out as the hub client lays it out; another revision is not there."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "stable").write_text(commit)
    case("qwen2_vl").model.save_pretrained(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = open_checkpoint("owner/tiny", "stable")
    assert (checkpoint.name, checkpoint.revision) == ("owner/tiny", "stable")
    assert checkpoint.folder.name == commit
    assert checkpoint.tensors
    with pytest.raises(MachineError, match="its cache here does not hold this checkpoint"):
        open_checkpoint("owner/tiny", "unstable")
