"""Pixels: a picture that has the size becomes what the family's processor makes of it."""

from __future__ import annotations

import pytest
import torch
from family_harness import MADE_HERE, Case, case, reference
from family_processors import image_processor


def _theirs(tiny: Case, images: torch.Tensor) -> torch.Tensor:
    pictures = [image[0].numpy() for image in images]
    nested = [pictures] if str(tiny) in ("idefics3", "smolvlm", "llava_onevision") else pictures
    pixels = image_processor(str(tiny))(nested, return_tensors="pt")["pixel_values"]
    if str(tiny) == "llava_next":
        return pixels[:, :1]  # of the whole and one tile, the same picture twice
    return pixels[:, 0] if str(tiny) == "llava_onevision" else pixels  # [n, 1 tile, 3, H, W]


@pytest.mark.parametrize("name", MADE_HERE)
def test_pixels_equal_theimage_processor(name: str) -> None:
    tiny = case(name)
    images = tiny.images(2)
    ours = reference(tiny, tiny.prompt(2), images)["pixel_values"]
    theirs = _theirs(tiny, images)
    theirs = theirs[:, : ours.shape[1]] if str(tiny) in ("gemma4", "lfm2_vl") else theirs  # padded to a number
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", MADE_HERE)
def test_resampling_is_the_processor_s(name: str) -> None:
    assert case(name).family.pixels.resample == type(image_processor(name)).resample.name.lower()
