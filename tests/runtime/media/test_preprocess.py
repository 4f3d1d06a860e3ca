from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from luvc_export.bundle.manifest import Fit, ImageInput
from luvc_export.core.tiling import Tiling
from luvc_export.errors import BundleError
from luvc_export.runtime.media.preprocess import preprocess, tile_picture
from luvc_export.runtime.media.tile_selection import best_fit

GREY = (127, 127, 127)
WIDE = Image.new("RGB", (80, 40), (255, 0, 0))


def spec(fit: Fit, size: tuple[int, int] = (20, 20)) -> ImageInput:
    return ImageInput(size, fit, GREY)


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_the_right_size_passes_unchanged(fit: Fit) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    prepared = preprocess(array, spec(fit, (20, 30)))
    assert prepared.pixels.shape == (1, 20, 30, 3)
    assert prepared.pixels.dtype == np.uint8
    np.testing.assert_array_equal(prepared.pixels[0], array)
    assert prepared.placement.box == (0, 0, 30, 20)


def test_pad_centres_on_the_pad_colour() -> None:
    prepared = preprocess(WIDE, spec("pad"))
    assert prepared.placement.box == (0, 5, 20, 15)
    assert prepared.placement.size == (80, 40)
    assert prepared.placement.to_picture(10, 5) == (40, 0)
    inside = prepared.pixels[0, 5:15]
    assert (inside == (255, 0, 0)).all()
    assert (np.delete(prepared.pixels[0], slice(5, 15), axis=0) == GREY).all()


def test_pad_of_a_sliver_keeps_at_least_one_pixel() -> None:
    prepared = preprocess(Image.new("RGB", (10_000, 1), (255, 0, 0)), spec("pad"))
    assert (prepared.pixels[0] == (255, 0, 0)).all(axis=2).sum() == 20


def test_stretch_fills_the_canvas() -> None:
    prepared = preprocess(WIDE, spec("stretch"))
    assert (prepared.pixels == (255, 0, 0)).all()
    assert prepared.placement.to_picture(20, 20) == (80, 40)


def test_crop_covers_the_canvas_and_cuts_both_sides() -> None:
    striped = WIDE.copy()
    striped.paste((0, 0, 255), (0, 0, 20, 40))
    striped.paste((0, 0, 255), (60, 0, 80, 40))
    prepared = preprocess(striped, spec("crop"))
    assert prepared.placement.box == (-10, 0, 30, 20)
    assert prepared.placement.to_picture(0, 0) == (20, 0)
    assert (prepared.pixels[0, :, 2:-2] == (255, 0, 0)).all()  # bicubic looks two pixels beyond the edge
    assert (prepared.pixels[0, :, :, 0] > 200).all()


def test_resizing_is_pillows_named_filter() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 57, 3)).astype(np.uint8))
    for name in ("bicubic", "bilinear", "lanczos", "nearest"):
        got = preprocess(noise, dataclasses.replace(spec("stretch"), resample=name)).pixels[0]
        wanted = np.asarray(noise.resize((20, 20), Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(got, wanted)


def test_what_cannot_be_prepared() -> None:
    with pytest.raises(BundleError, match="did you mean 'bicubic'"):
        preprocess(WIDE, dataclasses.replace(spec("pad"), resample="bicubbic"))


def test_a_still_picture_fills_all_frames() -> None:
    one, two = preprocess(WIDE, spec("pad")), preprocess(WIDE, dataclasses.replace(spec("pad"), frames=2))
    assert two.pixels.shape == (2, *one.pixels.shape[1:])
    assert (two.pixels == one.pixels).all()


@pytest.mark.parametrize(
    ("size", "best"), [((100, 100), (64, 64)), ((200, 100), (64, 128)), ((90, 200), (128, 64)), ((20, 10), (64, 64))]
)
def test_the_canvas_that_shows_most_and_wastes_least(size: tuple[int, int], best: tuple[int, int]) -> None:
    canvases = [(64, 64), (64, 128), (128, 64)]
    assert canvases[best_fit(size, canvases)] == best


def test_tiles_are_parts_of_one_canvas_and_say_where_the_picture_lies() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8))
    left, right, whole = tile_picture(picture, spec("pad", size=(8, 8)), Tiling((), (1, 2), "last"))
    assert np.array_equal(np.concatenate([left.pixels[0], right.pixels[0]], 1), np.asarray(picture))
    assert right.placement.to_picture(2, 3) == (10, 3)
    assert whole.placement.to_picture(4, 4) == (8, 4)
    assert np.array_equal(whole.pixels[0], np.asarray(picture.resize((8, 8), Image.Resampling.BICUBIC)))


def test_a_stretched_whole_beside_tiles_is_made_of_what_its_processor_makes_it_of() -> None:
    """Of the picture; of the tiles' canvas where Idefics3's rule cuts."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    canvas, seen = picture.resize((32, 16), Image.Resampling.BICUBIC), []
    for rule, source in (("closest_ratio", picture), ("longest_edge", canvas)):
        whole = tile_picture(picture, spec("stretch", size=(16, 16)), Tiling((), (1, 2), "last"), rule)[-1]  # type: ignore[arg-type]
        assert np.array_equal(whole.pixels[0], np.asarray(source.resize((16, 16), Image.Resampling.BICUBIC)))
        seen.append(whole.pixels)
    assert not np.array_equal(*seen)
