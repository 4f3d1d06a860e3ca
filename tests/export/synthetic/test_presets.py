"""Random checkpoints have the published models' shapes, and the main job takes them."""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
import numpy as np
import pytest
import timm_stand_in

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import MachineError, UsageError
from luvc_export.export import families
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.processor import picture_settings
from luvc_export.export.synthetic import checkpoint, presets

#: Parameters of the published checkpoints, as their model cards and safetensors indices give them.
PARAMETERS = {
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "internvl3-1b": 938_193_024,
    "internvl3-2b": 2_088_957_440,
    "smolvlm-256m": 256_484_928,
    "cosmos-reason2-2b": 2_127_532_032,
    "ministral3-3b": 3_849_090_048,
    "llava-next-7b": 7_566_747_648,
    "paligemma-3b": 2_923_466_480,
    "gemma4-e2b": 4_797_114_083,  # of 5.1B, without its audio tower
    "fastvlm-0.5b": 620_476_128,  # its page says 0.6B
}
#: Counted from the sizes alone: their indices were not at hand. Qwen's has one layer more, which is for drafts.
PARAMETERS |= {"lfm2-vl-450m": 450_822_656, "qwen3.5-0.8b": 852_985_920, "paddleocr-vl-0.9b": 905_601_648}


def test_every_published_model_is_a_file_of_the_package() -> None:
    assert set(presets.PRESETS) == set(PARAMETERS)
    assert {path.stem for path in presets.PUBLISHED.iterdir()} == set(PARAMETERS)
    for preset in presets.PRESETS.values():
        assert preset.config["model_type"] and preset.processor["processor_class"]
        assert not preset.end or preset.end in preset.tokens.values()
        image = "image_token_id" if "image_token_id" in preset.config else "image_token_index"
        assert preset.config[image] in preset.tokens


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_as_many_parameters_as_published(name: str) -> None:
    if name == "fastvlm-0.5b":
        timm_stand_in.load()
    shapes = checkpoint.shapes_of(presets.find(name))
    parameters = (shape for tensor, shape in shapes.items() if ".running_" not in tensor)  # of batch norms: buffers
    assert sum(map(prod, parameters)) == PARAMETERS[name]


def test_fewer_layers_are_the_same_layers() -> None:
    full = presets.find("qwen2.5-vl-3b")
    small = presets.resized(full, 3, 16)
    assert small.config["vision_config"]["fullatt_block_indexes"] == [7, 15]
    assert presets.resized(full, 3, 4).config["vision_config"]["fullatt_block_indexes"] == [3]
    assert full.config["vision_config"]["depth"] == 32
    all_, some = checkpoint.shapes_of(full), checkpoint.shapes_of(small)
    assert set(some.items()) < set(all_.items())
    assert {name.split(".")[3] for name in some if "language_model.layers" in name} == {"0", "1", "2"}
    with pytest.raises(UsageError, match="expected: 1 to 36"):
        presets.resized(full, 37, None)


def test_fewer_layers_keep_some_that_share_caches() -> None:
    full = presets.find("gemma4-e2b")
    for layers, shared in ((35, 20), (10, 5), (7, 2), (5, 0), (3, 0)):
        small = presets.resized(full, layers, 2)
        assert small.config["text_config"]["num_kv_shared_layers"] == shared
        assert checkpoint.shapes_of(small)


def test_fewer_blocks_keep_the_planes_that_are_left() -> None:
    full = presets.find("cosmos-reason2-2b")
    for blocks, tapped in ((24, [5, 11, 17]), (12, [5, 11]), (3, [2])):
        small = presets.resized(full, 1, blocks)
        assert small.config["vision_config"]["deepstack_visual_indexes"] == tapped
        assert checkpoint.shapes_of(small)


def test_a_small_checkpoint_is_written_in_shards_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 2**20)
    source = tmp_path / "config.json"
    config = json.loads((CHECKPOINT / "config.json").read_text())
    source.write_text(json.dumps(config))
    preset = presets.find(str(source))
    shares: list[float] = []
    count = checkpoint.write(preset, tmp_path / "out", "bf16", 1, lambda stage, done: shares.append(done))
    opened = open_checkpoint(str(tmp_path / "out"))
    assert shares[-1] == 1.0 and len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert sum(prod(tensor.shape) for tensor in opened.tensors.values()) == count
    assert {tensor.dtype for tensor in opened.tensors.values()} == {"BF16"}
    assert not list(tmp_path.glob(".out*"))
    with pytest.raises(UsageError, match="the output folder exists"):
        checkpoint.write(preset, tmp_path / "out")


#: Families whose shapes no published file has.
UNPUBLISHED = ("qwen2_vl", "llava", "llava_onevision", "idefics3", "gemma3")


@pytest.mark.parametrize("name", (*PARAMETERS, *UNPUBLISHED))
def test_a_config_alone_gets_settings_of_pictures_that_fit_it(name: str, tmp_path: Path) -> None:
    """As ``export`` reads them: of 14 published configs 9 were refused, "the processor does not fit the model"."""
    if name == "fastvlm-0.5b":
        timm_stand_in.load()
    known = presets.PRESETS.get(name)
    config = known.config if known else families.find(name, name).tiny_config().to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    alone = presets.find(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(alone.processor))
    settings = picture_settings(open_checkpoint(str(tmp_path), weights=False))
    pixels = families.find(config["model_type"], name).pixels
    own = {"image_mean": pixels.mean, "image_std": pixels.std} | (known.processor if known else {})
    assert (settings.mean, settings.std) == (tuple(own["image_mean"]), tuple(own["image_std"]))


def test_values_are_normal_and_repeatable() -> None:
    parts = [np.concatenate([*checkpoint.values("a.weight", (300, 100), "fp32", seed)]) for seed in (0, 0, 1)]
    assert (parts[0] == parts[1]).all() and (parts[0] != parts[2]).any()
    assert abs(parts[0].std() - checkpoint.DEVIATION) < 3e-4
    assert next(checkpoint.values("norm.weight", (2,), "bf16", 0)).tolist() == [0x3F80, 0x3F80]
    assert next(checkpoint.values("q.bias", (2,), "fp16", 0)).tolist() == [0, 0]


def test_special_tokens_keep_their_ids() -> None:
    preset = presets.find("smolvlm-256m")
    tokenizer = checkpoint.make_tokenizer(preset)
    assert all(tokenizer.token_to_id(text) == number for number, text in preset.tokens.items())
    ids = tokenizer.encode("<|im_start|>user\nwhat?<image>", add_special_tokens=False).ids
    assert ids[0] == 1 and ids[-1] == 49190 and tokenizer.decode(ids) == "user\nwhat?"


def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"did you mean .qwen2\.5-vl-3b"):
        presets.find("qwen2.5-vl-3")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="not the config of a vision-language model"):
        presets.find(str(tmp_path))
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(MachineError, match="the disk is too small"):
        checkpoint.write(presets.find("smolvlm-256m"), tmp_path / "out")
