"""Which units and tokens show padding alone, from where the picture lies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from luvc_export.bundle.manifest import Fit, ImageInput
from luvc_export.core.tiling import Tiling
from luvc_export.errors import BundleError
from luvc_export.runtime.media.padding import padding_tokens, padding_units
from luvc_export.runtime.media.preprocess import fill_images, preprocess, tile_picture
from luvc_export.runtime.media.token_visualisation import draw

GRID = (4, 6)
CANVAS = ImageInput((40, 60), "pad", (7, 8, 9))


def units(size: tuple[int, int], fit: Fit = "pad") -> NDArray[np.bool_]:
    """Of a picture of ``size`` (width, height) on ``CANVAS``."""
    spec = ImageInput(CANVAS.size, fit, CANVAS.pad_colour)
    return padding_units(preprocess(Image.new("RGB", size, "red"), spec).boxes, GRID, (10, 10))


@pytest.mark.parametrize("size", [(60, 10), (600, 90), (10, 40), (35, 400), (61, 40), (59, 40), (60, 41), (7, 9)])
def test_units_are_padding_where_every_pixel_is(size: tuple[int, int]) -> None:
    """Counted pixel by pixel."""
    prepared = preprocess(Image.new("RGB", size, "red"), CANVAS)
    seen = (prepared.pixels[0] != CANVAS.pad_colour).any(-1).reshape(4, 10, 6, 10).any((1, 3))
    assert np.array_equal(padding_units(prepared.boxes, GRID, (10, 10)), ~seen)


def test_a_unit_at_the_edge_counts_as_picture() -> None:
    assert not units((60, 22)).any(), "a pixel of it lies in the first row of units and one in the last"
    assert units((60, 20)).all(1).tolist() == units((60, 18)).all(1).tolist() == [True, False, False, True]
    assert not units((60, 40)).any()


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_other_fits_have_no_padding(fit: Fit) -> None:
    assert not units((60, 10), fit).any() and not units((10, 40), fit).any()


def test_of_tiles_and_the_whole_each_has_its_own() -> None:
    picture = Image.new("RGB", (120, 10), "red")
    left, right, whole = tile_picture(picture, CANVAS, Tiling((1,), (1, 2), "last"))
    for tile in (left, right):
        assert padding_units(tile.boxes, GRID, (10, 10)).all(1).tolist() == [True, False, False, True]
    assert padding_units(whole.boxes, GRID, (10, 10)).all(1).tolist() == [True, False, False, True]
    corner = tile_picture(Image.new("RGB", (30, 40), "red"), CANVAS, Tiling((1,), (1, 3)))
    shown = [padding_units(tile.boxes, GRID, (10, 10)).all() for tile in corner]
    assert shown == [True, False, True], "a tile may be padding alone"


def test_of_two_frames_a_unit_is_padding_where_both_are() -> None:
    spec = ImageInput(CANVAS.size, "pad", CANVAS.pad_colour, frames=2)
    wide, tall = Image.new("RGB", (60, 10), "red"), Image.new("RGB", (10, 40), "red")
    both = padding_units(fill_images([wide, tall], spec)[0].boxes, GRID, (10, 10))
    assert np.array_equal(both, units((60, 10)) & units((10, 40))) and both.any()


def test_units_of_a_tower_that_leaves_pixels_over() -> None:
    """27 patches of 14 pixels on 384: the last unit ends at 378."""
    units = padding_units([(0, 0, 364.0, 384)], (27, 27), (14, 14))
    assert not units[:, :26].any() and units[:, 26].all()


def test_a_token_is_padding_where_all_its_units_are() -> None:
    padding = np.array([[[True, True, False]], [[True, False, False]]])
    merged = np.array([[0, 0, 1], [0, 0, 1]])
    assert padding_tokens(padding, merged, 2).tolist() == [[True, False], [False, False]]
    assert padding_tokens(padding, None, 3).tolist() == [[True, True, False], [True, False, False]]


def test_units_that_left_the_encoder_are_no_token_and_are_drawn_dark() -> None:
    padding = np.array([[[False, True, False]]])
    assert padding_tokens(padding, np.array([[-1, 0, 1]]), 2).tolist() == [[True, False]]
    canvas = np.full((80, 80, 3), 200, np.uint8)
    sheet = np.asarray(draw(canvas, (2, 2), np.array([0, -1, -1, 1]), {}, 160))
    left, right = (sheet[34 + 40, 12 + place] for place in (40, 120))
    assert left[0] == 200 and right[0] < 80


def test_a_graph_that_does_not_say_what_merged_is_refused() -> None:
    with pytest.raises(BundleError, match=r"which tokens are padding(.|\n)*3 units, 2 tokens(.|\n)*export the bundle"):
        padding_tokens(np.zeros((1, 1, 3), np.bool_), None, 2)


def test_padding_is_drawn_hatched_and_counted() -> None:
    canvas = np.full((80, 80, 3), 200, np.uint8)
    padding = np.array([[False, False], [True, True]])
    merged, kept = np.array([0, 1, 2, 3]), {3: np.array([0, 2])}
    plain, hatched = (np.asarray(draw(canvas, (2, 2), merged, kept, 160, some)) for some in (None, padding))
    panels = [(sheet[34:194, 12 + i * 172 : 172 + i * 172]) for sheet in (plain, hatched) for i in range(2)]
    for before, after in zip(panels[:2], panels[2:], strict=True):
        assert np.array_equal(before[:78], after[:78]), "the picture is drawn as before"
        for half in (slice(4, 76), slice(84, 156)):
            changed = (before[84:156, half] != after[84:156, half]).any(-1)
            assert 0.2 < changed.mean() < 0.5, "lines, in kept units and in dropped ones"
    caption = np.asarray(draw(canvas, (2, 2), merged, kept, 320, padding)) != np.asarray(
        draw(canvas, (2, 2), merged, kept, 320)
    )
    assert caption[:34].any(), "the caption counts it"
