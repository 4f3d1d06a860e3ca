"""Families published since transformers 5: pictures of twenty odd sizes become the pixels that transformers' make.

Those that read pages are among them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from family_checkpoints import find, names
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
#: What no repository of transformers 4 has a form for: stretched whole, or cut.
RECENT = [name for name in names() if find(name).repository is None]
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


def size_of(theirs: Any, tiny: Case) -> tuple[int, int]:
    """What a processor made of a picture, by what it says beside: patches, or pixels; else all have one size."""
    patch = tiny.config.vision_config.patch_size
    if (places := theirs.get("image_position_ids")) is not None:  # of each patch, -1 where there is none
        columns, rows = (patch * (int(last) + 1) for last in places[0].amax(0))
        return rows, columns
    for key, unit in (("image_grid_thw", patch), ("target_sizes", patch), ("image_sizes", 1)):
        if key in theirs:
            rows, columns = (unit * int(side) for side in theirs[key][0][-2:])
            return rows, columns
    return tiny.size


@pytest.mark.parametrize("name", [name for name in RECENT if find(name).two_tiles is None])
def test_a_picture_stretched_to_the_processor_s_size_has_its_pixels(name: str) -> None:
    tiny, grids = case(name), set()
    for width, height in SIZES:
        shown, unit = scene(width, height), tiny.family.unit_pixels(tiny.config)
        made_for = {"patch_size": unit} if find(name).images == "pixtral" else {}  # as its chats' processor has it do
        theirs = image_processor(name, do_resize=True, **made_for)([shown], return_tensors="pt")
        size, expected = size_of(theirs, tiny), theirs["pixel_values"]
        if "image_position_ids" in theirs:
            expected = expected[:, theirs["image_position_ids"][0, :, 0] >= 0]
        pixels = ours(tiny, shown, size, False)
        assert pixels.shape == expected.shape and float((pixels - expected).abs().max()) < LEVEL, (width, height)
        grids.add(size)
    assert len(grids) > 10 or grids == {tiny.family.image_size(tiny.config)}


@pytest.mark.parametrize("name", [name for name in RECENT if find(name).two_tiles is not None])
def test_tiles_and_the_whole_have_the_processor_s_pixels(name: str) -> None:
    tiny, counts = case(name), set()
    processor = image_processor(name, crop_to_patches=True, min_patches=1, max_patches=6)
    for width, height in SIZES:
        shown = scene(width, height)
        theirs = processor([shown], return_tensors="pt")["pixel_values"]
        pixels = ours(tiny, shown, tiny.size, True)
        assert pixels.shape == theirs.shape and float((pixels - theirs).abs().max()) < LEVEL, (width, height)
        counts.add(pixels.shape[-4])
    assert len(counts) > 3


def test_another_resampling_is_seen() -> None:
    tiny, shown = case("qianfan_ocr"), scene(*SIZES[2])
    theirs = image_processor("qianfan_ocr", resample=0)([shown], return_tensors="pt")["pixel_values"]
    assert float((ours(tiny, shown, tiny.size, False) - theirs).abs().max()) > 4 * LEVEL
