"""LoRA adapters made with peft: the merged checkpoint computes what peft computes."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_harness as harness
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case, case
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from luvc_export import export_bundle
from luvc_export.bundle.adapters.peft_config import read_config
from luvc_export.errors import CheckpointError, MachineError, UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.lora import merged

peft = pytest.importorskip("peft", reason="pip install 'luvc-export[lora]'")


@pytest.fixture(scope="module")
def tiny() -> Case:
    """A model of its own: peft changes what it is given."""
    return harness.build(case("qwen2_vl").family, case("qwen2_vl").family.tiny_config(), seed=3)


@pytest.fixture(scope="module")
def folders(tiny: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.Tensor, torch.Tensor]:
    """A checkpoint and its adapter, and the logits without and with it."""
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    tiny.model.save_pretrained(base)
    inputs = harness.reference(tiny, tiny.prompt(1), tiny.images(1))
    before = harness.reference_logits(tiny, inputs)
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj", "qkv"], lora_alpha=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model: Any = peft.get_peft_model(tiny.model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        tiny.model.model.rope_deltas = None
        after = model(**inputs).logits[0]
    model.save_pretrained(adapter)
    return base, adapter, before, after[inputs["input_ids"][0] != tiny.family.image_token_id(tiny.config)]


def test_the_merged_checkpoint_computes_what_peft_computes(
    tiny: Case, folders: tuple[Path, Path, torch.Tensor, torch.Tensor]
) -> None:
    base, adapter, before, after = folders
    with merged(open_checkpoint(str(base)), str(adapter)) as checkpoint:
        scratch = checkpoint.folder
        assert checkpoint.name == f"{base} + {adapter}"
        model = type(case("qwen2_vl").model).from_pretrained(scratch, attn_implementation="eager").eval()
    assert not scratch.exists()
    ours = Case(tiny.family, model.config, model, tiny.size, tiny.plan, tiny.thirds)
    seen = harness.encode_images(ours, ours.plan, ours.images(1))
    run = harness.lay_out(ours, ours.plan, ours.prompt(1), *seen[:2])
    logits = harness.logits(ours, ours.family.decoder(ours.model, ours.plan), run)
    assert harness.difference(logits, after) < TOLERANCE
    assert harness.difference(after, before) > SABOTAGE


def test_a_folder_that_is_no_adapter(folders: Any, tmp_path: Path) -> None:
    refusal = r"this folder is not a LoRA adapter(.|\n)*adapter_config\.json"
    with pytest.raises(CheckpointError, match=refusal), merged(open_checkpoint(str(folders[0])), str(tmp_path)):
        pass


def test_an_adapter_of_another_model(folders: Any, tmp_path: Path) -> None:
    case("llava").model.save_pretrained(tmp_path / "llava")
    other = open_checkpoint(str(tmp_path / "llava"))
    with (
        pytest.raises(CheckpointError, match="the adapter does not fit the checkpoint"),
        merged(other, str(folders[1])),
    ):
        pass


def changed(adapter: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of ``adapter`` with other tensors."""
    shutil.copytree(adapter, target)
    tensors = load_file(target / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, target / "adapter_model.safetensors")
    return target


def another_depth(tensors: dict[str, torch.Tensor]) -> None:
    """Two tensors of a layer that the model has not: they were dropped without a word."""
    for name in [name for name in tensors if "layers.0.self_attn.q_proj" in name]:
        tensors[name.replace("layers.0", "layers.40")] = tensors[name].clone()


def half(tensors: dict[str, torch.Tensor]) -> None:
    """Half a pair is gone: the weight would not change."""
    del tensors[next(name for name in tensors if "lora_B" in name)]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (another_depth, r"2 tensors of the adapter have no weight in the model: .*layers\.40\.self_attn\.q_proj"),
        (half, r"1 weights get no tensor of it: .*lora_B"),
    ],
)
def test_every_tensor_finds_its_weight_or_the_adapter_is_refused(
    folders: Any, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], refusal: str
) -> None:
    adapter = changed(folders[1], tmp_path / "adapter", change)
    with (
        pytest.raises(CheckpointError, match=rf"does not fit the checkpoint(.|\n)*{refusal}"),
        merged(open_checkpoint(str(folders[0])), str(adapter)),
    ):
        pass


def test_an_adapter_of_the_text_model_alone(folders: Any, tmp_path: Path) -> None:
    """It was called made for what it was expected to be of: "expected an adapter of X; this one was made for X"."""

    def alone(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensor = tensors.pop(name)
            if ".language_model." in name:
                tensors[name.replace(".language_model.", ".")] = tensor

    adapter = changed(folders[1], tmp_path / "adapter", alone)
    with pytest.raises(CheckpointError) as refusal, merged(open_checkpoint(str(folders[0])), str(adapter)):
        pass
    error = refusal.value
    assert "tensors of the adapter are named as in the text model alone: base_model.model.model.layers." in str(
        error.got
    )
    assert "names of the whole model: base_model.model.model.language_model.layers.0." in str(error.expected)
    assert "AutoModelForImageTextToText" in str(error.fix) and "made for" not in str(error)


def test_an_adapter_that_names_the_checkpoint_and_does_not_fit(folders: Any, tmp_path: Path) -> None:
    adapter = changed(folders[1], tmp_path / "adapter", another_depth)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folders[0])}))
    with pytest.raises(CheckpointError) as refusal, merged(open_checkpoint(str(folders[0])), str(adapter)):
        pass
    assert "which its adapter_config.json names as its model" in str(refusal.value.expected)


def test_a_deeper_model_s_adapter(folders: Any, tiny: Case, tmp_path: Path) -> None:
    """Of the same family: 16 of 52 tensors were once dropped."""
    config = copy.deepcopy(tiny.config)
    config.text_config.num_hidden_layers += 1
    config.text_config.layer_types = [*config.text_config.layer_types, config.text_config.layer_types[-1]]
    deeper = type(case("qwen2_vl").model)(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted: Any = peft.get_peft_model(deeper, peft.LoraConfig(r=2, target_modules=["q_proj"]))
        adapted.save_pretrained(tmp_path / "adapter")
    with (
        pytest.raises(CheckpointError, match=r"2 tensors of the adapter have no weight"),
        merged(open_checkpoint(str(folders[0])), str(tmp_path / "adapter")),
    ):
        pass


def test_a_full_disk_names_the_folder(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *positional: Any, **named: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    refusal = r"cannot be written(.|\n)*where: .*luvc-lora(.|\n)*No space left(.|\n)*TMPDIR"
    with pytest.raises(MachineError, match=refusal), merged(open_checkpoint(str(folders[0])), str(folders[1])):
        pass


def test_without_peft(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with (
        pytest.raises(MachineError, match=r"needs peft(.|\n)*luvc-export\[lora\]"),
        merged(open_checkpoint(str(folders[0])), str(folders[1])),
    ):
        pass


def test_what_is_merged_cannot_be_referenced(folders: Any, tmp_path: Path) -> None:
    base = shutil.copytree(folders[0], tmp_path / "base")
    with pytest.raises(UsageError, match=r"merged weights lie nowhere(.|\n)*--weights copy"):
        export_bundle(str(base), tmp_path / "b", lora=str(folders[1]), weights="reference")


def test_patterns_and_fields_are_read_as_peft_does(tmp_path: Path) -> None:
    """Where a bundle's slots take the adapter, and nothing of peft runs."""
    from peft.utils.other import get_pattern_key

    patterns = {"layers.1.self_attn.v_proj": 2, "v_proj": 4, "^model.layers.0.mlp.up_proj": 6, "up_proj": 1}
    config = peft.LoraConfig(
        r=8, target_modules=["q_proj"], lora_dropout=0.1, init_lora_weights="gaussian", rank_pattern=patterns
    )
    config.save_pretrained(tmp_path)
    adapter = read_config(tmp_path)
    for name in ("layers.1.self_attn.v_proj", "layers.0.self_attn.v_proj", "layers.0.mlp.up_proj", "mlp.down_proj"):
        for full in (f"model.{name}", f"model.language_model.{name}"):
            assert adapter.rank_of(full) == patterns.get(get_pattern_key(patterns, full), 8)
    peft.LoraConfig(r=8, target_modules=["q_proj"], use_dora=True).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="DoRA"):
        read_config(tmp_path)
