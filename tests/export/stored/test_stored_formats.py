from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mutated_quantised
import numpy as np
import pytest
import quantised_checkpoint as forms
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luvc_export.errors import CheckpointError
from luvc_export.export import stored
from luvc_export.export.checkpoint import open_checkpoint

Q = "model.layers.0.self_attn.q_proj"


def small(folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    settings, quantise = forms.FORMS[name]
    return folder, forms.write(folder, settings, quantise)


def changed(folder: Path, **tensors: Tensor) -> None:
    path = folder / "model.safetensors"
    held = load_file(path) | {f"{Q}.{tail}": tensor.contiguous() for tail, tensor in tensors.items()}
    save_file(held, path, metadata={"format": "pt"})


def widened(folder: Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.stored is not None
    return {f"{linear.name}.weight": linear.read().widened() for linear in checkpoint.stored.linears}


@pytest.mark.parametrize("name", forms.FORMS)
def test_every_form_is_read_to_the_last_bit(name: str, tmp_path: Path) -> None:
    folder, meant = small(tmp_path / "model", name)
    checkpoint, read = open_checkpoint(str(folder)), widened(folder)
    assert checkpoint.stored is not None and checkpoint.method == forms.FORMS[name][0]["quant_method"]
    assert read.keys() == meant.keys() and len(read) == 7 * forms.LAYERS
    for key, values in read.items():
        np.testing.assert_array_equal(values, meant[key].numpy(), key)
    kept = [key for key in checkpoint.tensors if "visual" in key or "embed_tokens" in key]
    assert kept and not [
        key for key in checkpoint.tensors if "_proj." in key and "visual" not in key and "bias" not in key
    ]


@pytest.mark.parametrize("name", ["awq", "pack4_zeros", "gptq_v1"])
def test_a_swapped_nibble_a_zero_off_by_one_and_a_turned_scale_are_seen(name: str, tmp_path: Path) -> None:
    folder, meant = small(tmp_path / "model", name)
    held = load_file(folder / "model.safetensors")
    codes, zeros, scales = (
        ("weight_packed", "weight_zero_point", "weight_scale")
        if name == "pack4_zeros"
        else ("qweight", "qzeros", "scales")
    )
    word = held[f"{Q}.{codes}"].clone()
    nibbles = word[0, 0].item() & 0xFFFFFFFF
    turned = (nibbles & ~0xFF) | (nibbles >> 4 & 15) | (nibbles & 15) << 4
    word[0, 0] = turned - 2**32 if turned >= 2**31 else turned
    zero = held[f"{Q}.{zeros}"] - 0x11111111 if name == "gptq_v1" else held[f"{Q}.{zeros}"] ^ 1
    for tail, tensor in ((codes, word), (zeros, zero), (scales, held[f"{Q}.{scales}"].flip(0))):
        changed(folder, **{tail: tensor})
        if tail == zeros and name == "gptq_v1":  # symmetric, so any other zero is of no version
            with pytest.raises(CheckpointError, match="those of no version of GPTQ"):
                widened(folder)
        else:
            assert not np.array_equal(widened(folder)[f"{Q}.weight"], meant[f"{Q}.weight"].numpy()), tail
        changed(folder, **{tail: held[f"{Q}.{tail}"]})
    shape = held[f"{Q}.{scales}"].T
    changed(folder, **{scales: shape})
    with pytest.raises(CheckpointError, match=r"does not fit the others|do not divide"):
        widened(folder)


@pytest.mark.parametrize(
    ("name", "form", "line"),
    [
        ("gptq_v1", "gptq", "v1: every stored zero is 7"),
        ("gptq_v1", "gptq_v2", "v1: every stored zero is 7 (its checkpoint_format says otherwise)"),
        ("gptq_v2", "gptq", "v2: every stored zero is 8 (its checkpoint_format says otherwise)"),
        ("gptq_zeros", "gptq", "v1, as checkpoint_format says: zeros from"),
    ],
)
def test_the_version_of_gptq_is_that_of_its_zeros(name: str, form: str, line: str, tmp_path: Path) -> None:
    folder, meant = small(tmp_path / "model", name)
    restate(folder, checkpoint_format=form)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.stored is not None and line in checkpoint.stored.notes[0]
    np.testing.assert_array_equal(widened(folder)[f"{Q}.weight"], meant[f"{Q}.weight"].numpy())


DYNAMIC = {r"-:.*lm_head": {}, r"+:.*\.down_proj$": {"bits": 8}, r".*layers\.0\..*": {"group_size": 64}}


def test_modules_of_gptq_that_have_other_bits(tmp_path: Path) -> None:
    """``dynamic`` says so by patterns; 8-bit zeros say which version they are of for themselves."""

    def quantise(module: str, weight: Tensor) -> forms.Written:
        return forms.gptq(8 if module.endswith("down_proj") else 4)(module, weight)

    folder = tmp_path / "model"
    meant = forms.write(folder, forms.gptq_settings() | {"dynamic": DYNAMIC}, quantise)
    checkpoint, read = open_checkpoint(str(folder)), widened(folder)
    assert checkpoint.stored is not None
    assert {one.bits for one in checkpoint.stored.linears if one.name.endswith("down_proj")} == {8}
    assert [note.rpartition(" ")[2] for note in checkpoint.stored.notes] == ["7", "127"]
    for key, values in read.items():
        np.testing.assert_array_equal(values, meant[key].numpy(), key)
    for dynamic, text in (
        ({}, "does not fit the others"),
        ({"+:(": {}}, "settings by module"),
        ([1], "settings by module"),
        ({"a{99999999999}": {}}, "settings by module"),
        ({r".*\.[(*+?|]*\d\..*(?:gate|up)_proj": {}}, "does not fit the others"),
    ):
        restate(folder, dynamic=dynamic)
        with pytest.raises(CheckpointError, match=text):
            open_checkpoint(str(folder))
    restate(folder, dynamic={".*": {"bits": 2}})
    with pytest.raises(CheckpointError, match="2 bits"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("pattern", [r"+:(.*)*y", r"(?:a|a)+b", r".*.*.*.*.*.*y", "(a|a)" * 6 + "y"])
def test_a_pattern_that_might_take_for_ever(tmp_path: Path, pattern: str) -> None:
    """A stranger's: ``(.*)*y`` did not end within 8 s on a name of 28 characters."""
    folder, _ = small(tmp_path / "model", "gptq_v1")
    restate(folder, dynamic={pattern: {"bits": 8}})
    with pytest.raises(CheckpointError, match=r"for ever(.|\n)*: dynamic(.|\n)*at most 5(.|\n)*several patterns"):
        open_checkpoint(str(folder))


@pytest.mark.slow(
    beside="export/stored/test_stored_formats.py::test_broken_checkpoints_are_refused_or_read_to_what_they_say"
)
def test_many_patterns_are_bounded_together(tmp_path: Path) -> None:
    """Each takes 0.03 s to find that a name is another's; 200 of them held export for seconds a module."""
    folder, _ = small(tmp_path / "model", "gptq_v1")
    restate(folder, dynamic={f".*.*.*.*.*!{index}": {"bits": 8} for index in range(2000)})
    begin = time.process_time()
    with pytest.raises(CheckpointError, match=r"might take for ever(.|\n)*steps for all(.|\n)*1,000,000,000 steps"):
        open_checkpoint(str(folder))
    assert time.process_time() - begin < 30
    restate(folder, dynamic={"x" * 1025: {"bits": 8}})
    with pytest.raises(CheckpointError, match="settings by module"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("bits", [4.0, True, "4", None, [4]])
def test_bits_are_a_whole_number(tmp_path: Path, bits: object) -> None:
    folder, _ = small(tmp_path / "model", "gptq_v1")
    for fields in ({"bits": bits}, {"dynamic": {".*": {"bits": bits}}}):
        restate(folder, **({"bits": 4, "dynamic": {}} | fields))
        with pytest.raises(CheckpointError, match=r"GPTQ checkpoints of this kind are not read(.|\n)* bits"):
            open_checkpoint(str(folder))


def restate(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("gptq_v1", {"checkpoint_format": "gptq_p"}, "checkpoint_format gptq_p"),
        ("gptq_v1", {"bits": 3}, "3 bits"),
        ("gptq_v1", {"group_size": 32}, "group_size 32"),
        ("awq", {"version": "gemv"}, "version gemv"),
        ("awq", {"bits": 8}, "8 bits"),
        ("pack4", {"format": "marlin-24"}, "marlin-24"),
        ("pack4", {"sparsity_config": {"format": "sparse-bitmask"}}, "sparse-bitmask"),
        ("fp8_block", {"weight_block_size": [64, 64]}, "[64, 64]"),
        ("pack4", {"config_groups": {"g": {"weights": {"group_size": [64]}}}}, "group_size\n  got: [64]"),
        ("fp8_block", {"weight_block_size": 7}, "weight_block_size 7"),
    ],
)
def test_settings_that_are_not_read_are_refused_by_name(
    name: str, fields: dict[str, object], text: str, tmp_path: Path
) -> None:
    folder, _ = small(tmp_path / "model", name)
    restate(folder, **fields)
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(str(folder))
    assert text in str(refused.value) and "fix:" in str(refused.value)


@pytest.mark.parametrize("method", ["bitsandbytes", "bitsandbytes_4bit", "torchao", "modelopt", "gguf", "hqq"])
def test_other_methods_are_refused_with_what_to_do(method: str) -> None:
    with pytest.raises(CheckpointError, match=rf"quant_method {method}[\s\S]*known: awq[\s\S]*luvc-export calibrate"):
        stored.settings({"quantization_config": {"quant_method": method}}, "config.json")


def test_settings_lie_in_the_config_or_its_text_config() -> None:
    asked = {"quant_method": "awq"}
    for raw in ({"quantization_config": asked}, {"text_config": {"quantization_config": asked}}):
        assert stored.settings(raw, "") == asked
    assert stored.settings({"text_config": {}}, "") is None
    with pytest.raises(CheckpointError, match="does not say how"):
        stored.settings({"quantization_config": {"bits": 4}}, "config.json")


def test_a_checkpoint_that_is_not_quantised_after_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    forms.write(folder, forms.AWQ_SETTINGS, lambda module, weight: ({"weight": weight.half()}, weight))
    with pytest.raises(CheckpointError, match="and no tensor of it is"):
        open_checkpoint(str(folder))


def test_channels_of_groups_of_other_sizes(tmp_path: Path) -> None:
    folder, _ = small(tmp_path / "model", "gptq_act")
    changed(folder, g_idx=torch.zeros(192, dtype=torch.int32))
    with pytest.raises(CheckpointError, match="groups of different sizes"):
        widened(folder)


def test_parts_that_lie(tmp_path: Path) -> None:
    folder, _ = small(tmp_path / "model", "pack4")
    changed(folder, weight_shape=torch.tensor([192, 200]))
    with pytest.raises(CheckpointError, match="not the size that its shape says"):
        open_checkpoint(str(folder))


def test_broken_checkpoints_are_refused_or_read_to_what_they_say(tmp_path: Path) -> None:
    """A share of ``benchmarks/quantised_mutations.py``, one of each form."""
    for number, (name, folder) in enumerate(sorted(mutated_quantised.originals(tmp_path).items())):
        whole = mutated_quantised.meaning(folder)
        assert not mutated_quantised.attempt(folder, whole, number).startswith("WRONG"), name


def test_a_reader_that_believes_sizes_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutations find what is read wrongly: here a reader that checks no part."""
    folder, _ = small(tmp_path / "model", "awq")
    whole = mutated_quantised.meaning(folder)
    monkeypatch.setattr(
        "luvc_export.export.stored.base.Module.part",
        lambda module, name, *rest: module.tensors[f"{module.name}.{name}"],
    )
    ended = [mutated_quantised.attempt(folder, whole, seed) for seed in range(12)]
    assert [one for one in ended if one.startswith("WRONG")]
