"""Each family's pictures get the grid of tiles that its transformers processor chooses, whatever their shape."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import pytest
from family_processors import lfm2_vl_processor
from transformers.image_processing_utils import select_best_resolution
from transformers.image_utils import SizeDict
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from luvc_export.bundle.manifest import ImageInput
from luvc_export.core.tiling import Tiling
from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.media.preprocess import tile_picture
from luvc_export.runtime.media.tile_selection import RULES, choose_tiling

TILE = 32
MOST = 6
#: Every grid a processor could make of up to six tiles, in an order of its own.
GRIDS = [(rows, columns) for rows in range(1, MOST + 1) for columns in range(1, MOST + 1) if rows * columns <= MOST]


def sizes() -> list[tuple[int, int]]:
    """Width and height of pictures: all kinds, and exactly on the borders."""
    random = np.random.default_rng(0)
    drawn = [(int(w), int(h)) for w, h in random.integers(8, 400, (300, 2))]
    exact = [(columns * TILE * k // 2, rows * TILE * k // 2) for rows, columns in GRIDS for k in (1, 2, 3)]
    return drawn + exact


def _best_resolution(width: int, height: int) -> tuple[int, int]:
    resolution = select_best_resolution((height, width), [(rows * TILE, columns * TILE) for rows, columns in GRIDS])
    return resolution[0] // TILE, resolution[1] // TILE


def _closest_ratio(width: int, height: int) -> tuple[int, int]:
    columns, rows = get_optimal_tiled_canvas((height, width), (TILE, TILE), 1, MOST)
    return rows, columns


def _longest_edge(width: int, height: int) -> tuple[int, int]:
    """Idefics3's processor on a picture: resized to its longest edge, then to whole tiles, then split."""
    processor: Any = Idefics3ImageProcessorPil()
    picture = np.zeros((3, height, width), np.float32)
    resized = processor.resize(picture, SizeDict(longest_edge=4 * TILE))
    whole = processor.resize_for_vision_encoder(resized, TILE)
    _, rows, columns = processor.split_images(whole, {"longest_edge": TILE})
    return (rows, columns) if rows else (1, 1)


def _closest_ratio_of_large(width: int, height: int) -> tuple[int, int]:
    """LFM2-VL's, in patches of a pixel and units of two: a tile has 256 units, as the published ones."""
    rules = lfm2_vl_processor()
    if not rules._is_image_too_large(height, width, 256, 1, 2, 2.0):
        return 1, 1
    columns, rows, *_ = rules._get_grid_layout(height, width, 2, MOST, TILE)
    return rows, columns


THEIRS = {
    "best_resolution": _best_resolution,
    "closest_ratio": _closest_ratio,
    "longest_edge": _longest_edge,
    "closest_ratio_of_large": _closest_ratio_of_large,
}
#: Idefics3 fills the longest row there is: four tiles.
FOUR = [(rows, columns) for rows in range(1, 5) for columns in range(1, 5) if 4 in (rows, columns)]


@pytest.mark.parametrize("rule", THEIRS)
def test_a_rule_is_that_of_transformers(rule: Any) -> None:
    grids = FOUR if rule == "longest_edge" else GRIDS
    cuts = [Tiling((index,), grid) for index, grid in enumerate(grids)]
    chosen = set()
    for width, height in sizes()[:: 3 if rule == "longest_edge" else 1]:
        tiles = choose_tiling(cuts, (width, height), (TILE, TILE), 1, rule).tiles
        assert tiles == THEIRS[rule](width, height), (width, height)
        chosen.add(tiles)
    assert len(chosen) > len(grids) // 2


def test_lfm2_vl_tiles_have_the_pixels_of_its_processor() -> None:
    """A square picture in nine tiles, and the whole: a level of rounding apart."""
    family = families.find("lfm2_vl", "test")
    theirs = lfm2_vl_processor(encoder_patch_size=8, tile_size=64, min_image_tokens=4, max_image_tokens=16)
    rows = np.linspace(0, 9, 200)
    picture = (127 * np.sin(rows[:, None, None] * [1, 2, 3] + rows[None, :, None] ** 2) + 128).astype(np.uint8)
    shown = theirs([[picture]], return_row_col_info=True)
    grid = (shown["image_rows"][0], shown["image_cols"][0])
    patches = (127.5 * (shown["pixel_values"] + 1)).reshape(10, 8, 8, 8, 8, 3).transpose(2, 3)
    spec = ImageInput((64, 64), "stretch", (0, 0, 0), "bilinear")
    images = tile_picture(open_picture(picture), spec, family.cut(family.tiny_config(), grid), family.tiling)
    ours = np.stack([image.pixels[0] for image in images])
    apart = np.abs(patches.reshape(10, 64, 64, 3).numpy() - ours).max((1, 2, 3))
    assert grid == (3, 3) and max(apart) < 1.01, apart


def test_rules_differ() -> None:
    """A check of one rule against another fails, so the comparison above can."""
    both = ("best_resolution", "closest_ratio")
    best, closest = ([RULES[rule](size, GRIDS, (TILE, TILE)) for size in sizes()] for rule in both)
    assert best != closest


@pytest.mark.parametrize(("size", "tiles"), [((100, 20), (2, 2)), ((10, 2), (1, 1))])
def test_a_grid_the_bundle_lacks_is_replaced_by_the_best_resolution(
    size: tuple[int, int], tiles: tuple[int, int]
) -> None:
    """Both want one row of two tiles; the larger one shows more in four tiles, the smaller wastes less in one."""
    cuts = [Tiling((0,), (1, 1)), Tiling((1,), (2, 2))]
    assert choose_tiling(cuts, size, (TILE, TILE), 1, "longest_edge").tiles == tiles
    assert choose_tiling([*cuts, Tiling((2,), (1, 2))], size, (TILE, TILE), 1, "longest_edge").tiles == (1, 2)


def test_families_name_the_rule_of_their_processor() -> None:
    """Which of transformers' functions above the family's image processor calls."""
    calls = {
        "select_best_resolution": "best_resolution",
        "get_optimal_tiled_canvas": "closest_ratio",
        "resize_for_vision_encoder": "longest_edge",
    }
    rule_of = {}
    processors = {name: IMAGE_PROCESSOR_MAPPING_NAMES.get(name, {}) for name in families.built_in()}
    assert [name for name, kinds in processors.items() if kinds and "pil" not in kinds] == ["lfm2_vl"]  # torchvision
    for name, kinds in processors.items():
        if "pil" not in kinds:
            continue
        processor = get_image_processor_class_from_name(kinds["pil"])
        source = inspect.getsource(sys.modules[processor.__module__])
        if rules := [rule for call, rule in calls.items() if f"{call}(" in source]:
            (rule_of[name],) = rules
    assert {*rule_of.values(), families.find("lfm2_vl", "test").tiling} == set(THEIRS)
    assert rule_of == {name: families.find(name, "test").tiling for name in rule_of}


def test_pictures_that_a_bundle_cuts_in_no_way_are_refused() -> None:
    for used, pictures in (("together", 1), ("alone", 2)):
        with pytest.raises(UsageError, match=rf"cuts no prompt of so many pictures(.|\n)*got: {pictures} pictures"):
            choose_tiling([Tiling((1,), used=used)], (8, 8), (TILE, TILE), pictures)  # type: ignore[arg-type]
