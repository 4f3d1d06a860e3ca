"""Models that read pages: pictures of twenty odd sizes become the pixels that transformers' processors make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from family_harness import Case, case
from family_processors import image_processor

from luvc_export.bundle.manifest import ImageInput
from luvc_export.export.families.base import ReferencePrompt
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.media.preprocess import preprocess, tile_picture
from luvc_export.runtime.media.tile_selection import choose_tiling

#: Width and height; the first two are 9:1 and 1:9.
SIZES = [
    (297, 33),
    (33, 297),
    *((int(w) | 1, int(h) | 1) for w, h in np.random.default_rng(60).integers(17, 301, (18, 2))),
]
#: A level of a channel, normalised: resampling rounds to bytes.
LEVEL = 1.01 / 255 / 0.224
TILES = [(rows, columns) for rows in range(1, 7) for columns in range(1, 7) if rows * columns <= 6]


def scene(width: int, height: int) -> Any:
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + 2 * y) % 256], -1).astype(np.uint8)


def ours(tiny: Case, shown: Any, size: tuple[int, int], cut: bool) -> torch.Tensor:
    """``pixel_values`` of the picture stretched to ``size``, or of its tiles of that size."""
    family = tiny.family
    spec = ImageInput(size, "stretch", (0, 0, 0), family.pixels.resample)
    if cut:
        cuts, pictured = family.cuts(tiny.config, TILES), (shown.shape[1], shown.shape[0])
        chosen = choose_tiling(cuts, pictured, size, 1, family.tiling)
        images = tile_picture(open_picture(shown), spec, chosen, family.tiling)
    else:
        images = [preprocess(shown, spec)]
    pixels = tiny.normalise()(torch.from_numpy(np.stack([image.pixels for image in images])))
    return family.reference_inputs(tiny.config, ReferencePrompt(pixels, [250] * len(images)))["pixel_values"]


@pytest.mark.parametrize("name", ["glm_ocr", "hunyuan_vl", "lighton_ocr"])
def test_a_picture_stretched_to_the_processor_s_size_has_its_pixels(name: str) -> None:
    tiny, grids = case(name), set()
    for width, height in SIZES:
        shown, unit = scene(width, height), tiny.family.unit_pixels(tiny.config)
        made_for = {"patch_size": unit} if name == "lighton_ocr" else {}
        theirs = image_processor(name, **made_for)([shown], return_tensors="pt")
        if name == "lighton_ocr":
            size = tuple(int(side) for side in theirs["image_sizes"][0])
        else:
            size = tuple(8 * int(side) for side in theirs["image_grid_thw"][0][1:])
        pixels = ours(tiny, shown, size, False)  # type: ignore[arg-type]
        expected = theirs["pixel_values"]
        assert pixels.shape == expected.shape and float((pixels - expected).abs().max()) < LEVEL, (width, height)
        grids.add(size)
    assert len(grids) > 10


@pytest.mark.parametrize("name", ["granite_docling", "qianfan_ocr"])
def test_tiles_and_the_whole_have_the_processor_s_pixels(name: str) -> None:
    tiny, counts = case(name), set()
    processor = image_processor(name, crop_to_patches=True, min_patches=1, max_patches=6)
    for width, height in SIZES:
        shown = scene(width, height)
        theirs = processor([[shown]] if name == "granite_docling" else [shown], return_tensors="pt")["pixel_values"]
        pixels = ours(tiny, shown, tiny.size, True)
        assert pixels.shape == theirs.shape and float((pixels - theirs).abs().max()) < LEVEL, (width, height)
        counts.add(pixels.shape[-4])
    assert len(counts) > 3


def test_another_resampling_is_seen() -> None:
    tiny, shown = case("qianfan_ocr"), scene(*SIZES[2])
    theirs = image_processor("qianfan_ocr", resample=0)([shown], return_tensors="pt")["pixel_values"]
    assert float((ours(tiny, shown, tiny.size, False) - theirs).abs().max()) > 4 * LEVEL
