"""Settings of pictures: every place transformers reads, the values it takes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_chat
import numpy as np
import openvino
import pytest
import torch
from family_harness import MADE_HERE, case, difference
from family_processors import image_processor
from transformers import AutoImageProcessor

from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from luvc_export.export.exported_manifest import pad_colour
from luvc_export.export.families.base import Normalise, Pixels
from luvc_export.export.options import Options, check_size
from luvc_export.export.processor import normalise, picture_settings

FAMILIES = MADE_HERE
#: Values that no family and no class has by itself.
MEAN, STD = [0.25, 0.5, 0.75], [0.2, 0.3, 0.4]
OLD, NEW = "preprocessor_config.json", "processor_config.json"


def opened(folder: Path, weights: bool = True) -> Checkpoint:
    """A checkpoint of a config and settings alone; ``weights`` makes it pass for a whole one."""
    checkpoint = open_checkpoint(str(folder), weights=False)
    return replace(checkpoint, tensors={"x": StoredTensor(folder, 0, 0, "F32", ())}) if weights else checkpoint


def folder_of(name: str, folder: Path, **changes: Any) -> Path:
    tiny = case(name)
    tiny.config.save_pretrained(folder)
    family_chat.save_image_processor(tiny, folder, **changes)
    return folder


def nest(folder: Path, **beside: Any) -> None:
    """As transformers 5 saves a processor."""
    inner = json.loads((folder / OLD).read_text())
    (folder / OLD).unlink()
    (folder / NEW).write_text(json.dumps({"image_processor": inner, **beside}))


def relative(pixels: Any, expected: Any) -> float:
    """Largest relative difference: next to the mean, where padding is, a small one counts too."""
    right = torch.as_tensor(expected)
    return float(((pixels - right).abs() / right.abs().clamp(min=1e-30)).max())


def change(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / OLD).read_text())
    (folder / OLD).write_text(json.dumps(data | changes))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_those_of_transformers(name: str, nested: bool, tmp_path: Path) -> None:
    """Settings of transformers 4 and 5, and what they leave out: all 256 values of every channel."""
    tiny = case(name)
    folder_of(name, tmp_path, image_mean=MEAN, image_std=STD, do_normalize=True)
    if nested:
        nest(tmp_path)
    shown = np.resize(np.arange(256, dtype=np.uint8), tiny.size)[..., None].repeat(3, 2)
    theirs = AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    expected = theirs.normalize(theirs.rescale(shown.transpose(2, 0, 1), 1 / 255), MEAN, STD)
    pixels = normalise(opened(tmp_path))(torch.from_numpy(shown)[None, None])[0, 0].permute(2, 0, 1)
    assert difference(pixels, expected) < 1e-5
    assert picture_settings(opened(tmp_path)).mean == tuple(MEAN)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_colour_of_padding_is_not_rounding(name: str, tmp_path: Path) -> None:
    """With the family's own mean, the plain formula in fp32 was off by up to 1e-4 of what it gave there."""
    folder_of(name, tmp_path)
    own = normalise(opened(tmp_path))
    colour = torch.tensor(pad_colour(picture_settings(opened(tmp_path))), dtype=torch.uint8)[None, None, None, None]
    theirs = AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    shown = colour[0, 0].permute(2, 0, 1).numpy()
    expected = theirs.normalize(theirs.rescale(shown, theirs.rescale_factor), theirs.image_mean, theirs.image_std)
    assert relative(own(colour)[0, 0].permute(2, 0, 1), expected) < 1e-6


class _Unbound(Normalise):
    """As one sum, which OpenVINO makes of two where nothing stands between them."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image.to(torch.float32) - self.centre + self.shift) * self.scale


@pytest.mark.slow(beside="export/families/test_family_processor.py::test_the_colour_of_padding_is_not_rounding")
@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
def test_the_colour_of_padding_is_not_rounding_on_openvino_either() -> None:
    """Pixtral norms what padding embeds to, so that 2e-5 of it was 1e-3 of a log probability."""
    shown = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1).repeat(1, 1, 1, 1, 3)
    worst = {}
    for kind in (Normalise, _Unbound):
        own = kind(1 / 255, *(list(part) for part in (Pixels().mean, Pixels().std)))
        graph = openvino.convert_model(own, example_input=shown)
        ran = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(shown.numpy())[0]
        worst[kind] = ((torch.from_numpy(ran) - own(shown)).abs() / own(shown).abs()).max()
    assert worst[Normalise] < 1e-6 < 1e-5 < worst[_Unbound]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_file_leaves_out_is_what_its_class_takes(name: str, tmp_path: Path) -> None:
    folder_of(name, tmp_path)
    data = json.loads((tmp_path / OLD).read_text())
    kept = {key: value for key, value in data.items() if key not in ("image_mean", "image_std", "resample")}
    (tmp_path / OLD).write_text(json.dumps(kept))
    settings, theirs = picture_settings(opened(tmp_path)), type(image_processor(name))()
    assert settings.mean == tuple(theirs.image_mean)
    assert settings.std == tuple(theirs.image_std)


def test_arithmetic_that_is_switched_off(tmp_path: Path) -> None:
    settings = picture_settings(opened(folder_of("llava", tmp_path, do_normalize=False, do_rescale=False)))
    assert (settings.rescale, settings.mean, settings.std) == (1.0, (0.0,) * 3, (1.0,) * 3)


def test_no_settings_at_all(tmp_path: Path) -> None:
    """Graphs alone take the family's; a checkpoint that shall answer is refused."""
    case("llava").config.save_pretrained(tmp_path)
    assert picture_settings(opened(tmp_path, weights=False)).mean == case("llava").family.pixels.mean
    (tmp_path / NEW).write_text(json.dumps({"processor_class": "LlavaProcessor", "patch_size": 12}))
    with pytest.raises(CheckpointError, match=r"does not say how its pictures are prepared(.|\n)*save_pretrained"):
        check_size(opened(tmp_path), {}, Options((60, 60)))


def _other_mean(folder: Path) -> None:
    (folder / NEW).write_text(json.dumps({"image_processor": {"image_mean": [0.5, 0.5, 0.4]}}))


def _other_frames(folder: Path) -> None:
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"image_std": [0.5, 0.5, 0.4]}))


@pytest.mark.parametrize(
    ("name", "spoil", "refusal"),
    [
        ("llava", _other_mean, "contradict each other: image_mean(.|\n)*processor_config.json: image_processor says"),
        ("qwen2_vl", _other_frames, "contradict each other: image_std(.|\n)*video_preprocessor_config.json says"),
        ("llava", lambda at: change(at, crop_size={"height": 48, "width": 48}), r"size of an image(.|\n)*\(60, 60\)"),
        ("smolvlm", lambda at: change(at, max_image_size={"longest_edge": 64}), r"size of an image(.|\n)*\(64, 64\)"),
        ("qwen3_vl", lambda at: change(at, patch_size=16), "fit the model: patch_size(.|\n)*got: 16(.|\n)*expected: 8"),
        ("gemma3", lambda at: nest(at, image_seq_length=256), "fit the model: image_seq_length(.|\n)*expected: 16"),
        ("llava", lambda at: change(at, image_std=[0.5, 0, 0.5]), "cannot be read(.|\n)*image_std"),
        ("llava", lambda at: change(at, image_mean=[0.5, 0.5]), "cannot be read(.|\n)*got: ValueError"),
        ("llava", lambda at: (at / NEW).write_text("{"), "not JSON(.|\n)*processor_config.json"),
        ("llava", lambda at: (at / NEW).write_text('{"image_processor": 3}'), "are not an object(.|\n)*got: int"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(name: str, spoil: Any, refusal: str, tmp_path: Path) -> None:
    folder_of(name, tmp_path)
    video = case(name).family.video(case(name).config) is not None
    options = Options(case(name).size, text_capacity=256, video=video)
    check_size(opened(tmp_path), {}, options)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=refusal):
        check_size(opened(tmp_path), {}, options)


def test_two_spellings_of_one_setting_are_no_contradiction(tmp_path: Path) -> None:
    folder_of("llava_onevision", tmp_path)
    inner = json.loads((tmp_path / OLD).read_text())
    inner |= {"size": 64, "rescale_factor": 0.00392156862745098, "image_mean": [0.5, 0.5, 0.5]}
    (tmp_path / NEW).write_text(json.dumps({"image_processor": inner}))
    check_size(opened(tmp_path), {}, Options((64, 64)))


@pytest.mark.parametrize(
    ("name", "fits", "refused", "refusal"),
    [
        ("internvl", (3, 4), (20, 20), "at most 12 tiles"),
        ("internvl", (12, 1), (1, 13), "at most 12 tiles"),
        ("idefics3", (4, 1), (1, 5), "at most 4 tiles along a side"),
        ("smolvlm", (4, 4), (20, 20), "at most 4 tiles along a side"),
        ("lfm2_vl", (5, 2), (1, 11), "at most 10 tiles"),
        ("llava_onevision", (1, 2), (2, 2), "1x1, 1x2, 2x1"),
    ],
)
def test_tiles_that_the_family_never_makes_are_refused(
    name: str, fits: tuple[int, int], refused: tuple[int, int], refusal: str, tmp_path: Path
) -> None:
    tiny = case(name)
    longest = {"size": {"longest_edge": 4 * tiny.size[0] - 1}} if name in ("idefics3", "smolvlm") else {}
    longest |= {"max_tiles": 10} if name == "lfm2_vl" else {}
    checkpoint = opened(folder_of(name, tmp_path, **longest))
    options = Options(tiny.size, tiles=((1, 1), fits))
    check_size(checkpoint, {}, options)
    with pytest.raises(UsageError, match=rf"does not cut pictures so(.|\n)*{refused[0]}x{refused[1]}(.|\n)*{refusal}"):
        check_size(checkpoint, {}, replace(options, tiles=((1, 1), refused)))


def test_tiles_of_another_size_than_the_processors_are_refused(tmp_path: Path) -> None:
    checkpoint = opened(folder_of("lfm2_vl", tmp_path, tile_size=64, max_image_tokens=16))
    check_size(checkpoint, {}, Options((64, 64), tiles=((1, 2),)))
    with pytest.raises(UsageError, match=r"tiles have another size(.|\n)*got: 32x64(.|\n)*64x64 \(tile_size"):
        check_size(checkpoint, {}, Options((32, 64), tiles=((1, 2),)))


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("do_image_splitting", False, True),
        ("use_thumbnail", False, True),
        ("min_tiles", 1, 2),
        ("max_image_tokens", 256, 16),
        ("max_pixels_tolerance", 3.0, 2.0),
    ],
)
def test_tiles_of_a_processor_that_cuts_by_another_rule_are_refused(
    name: str, value: Any, needed: Any, tmp_path: Path
) -> None:
    settings = {"tile_size": 64, "max_image_tokens": 16, name: value}
    checkpoint = opened(folder_of("lfm2_vl", tmp_path, **settings))
    check_size(checkpoint, {}, Options((64, 64)))
    with pytest.raises(UsageError, match=rf"another rule(.|\n)*{name}(.|\n)*got: {value}(.|\n)*expected: {needed}"):
        check_size(checkpoint, {}, Options((64, 64), tiles=((1, 2),)))
