"""Units that neighbours foretell: by hand, by the plain loop, within a tolerance; what a bucket takes."""

from __future__ import annotations

import numpy as np
import pytest
from flat_plans import flat_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from luvc_export.runtime.host_backend import unit_inputs
from luvc_export.runtime.media import unit_choice
from luvc_export.runtime.media.unit_choice import FIRST, most_novel, novelty


def _flat(levels: list[list[int]], side: int = 2) -> NDArray[np.uint8]:
    """A picture uint8 [1, H, W, 3] whose units are of one level each, and three pixels more that belong to none."""
    picture = np.repeat(np.repeat(np.array(levels, np.uint8), side, 0), side, 1)
    return np.pad(picture, ((0, 3), (0, 3)), constant_values=99)[None, :, :, None].repeat(3, -1)


def test_the_predictor_by_hand() -> None:
    """Its last column: from above where left and corner are alike, else from the left."""
    values = novelty(_flat([[5, 5, 9], [5, 5, 9], [7, 7, 9]]), (3, 3), 2)
    assert values.tolist() == [[FIRST, 0, 4], [0, 0, 0], [2, 0, 2]]
    # Where the corner is another than the left, the left foretells, though the unit is as the one above.
    assert novelty(_flat([[1, 2], [3, 2]]), (2, 2), 2).tolist() == [[FIRST, 1], [2, 1]]


def test_no_image_has_no_units() -> None:
    """A question of text alone to a bucket that was asked for by name."""
    assert most_novel(np.zeros((0, 3, 4), np.int16), 5).shape == (0, 5)


def test_a_pixel_of_any_frame_and_channel_counts() -> None:
    film = np.repeat(_flat([[5, 5], [5, 5]]), 2, 0)
    film[1, 3, 3, 2] = 8
    assert novelty(film, (2, 2), 2).tolist() == [[FIRST, 0], [0, 3]]


def test_small_differences_do_not_add_up() -> None:
    """A gradient of one level a unit: within two levels every third is novel, since it is told from what stands."""
    values = novelty(_flat([list(range(7))]), (1, 7), 2, tolerance=2)
    assert values[0].tolist() == [FIRST, 1, 2, 3, 1, 2, 3]
    assert novelty(_flat([list(range(7))]), (1, 7), 2).tolist() == [[FIRST, 1, 1, 1, 1, 1, 1]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=40)
def test_the_quick_way_is_the_loop(seed: int, rows: int, columns: int, levels: int) -> None:
    """Few levels, so that many units are alike."""
    random = np.random.default_rng(seed)
    units = random.integers(0, levels, (rows, columns, 3)).astype(np.uint8)
    assert np.array_equal(unit_choice._exact(units), unit_choice._within(units, 0))


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
@settings(max_examples=40)
def test_what_is_dropped_can_be_told_again(seed: int, tolerance: int) -> None:
    """From novel units alone, in order: every pixel is within the tolerance."""
    random = np.random.default_rng(seed)
    picture = random.integers(0, 3, (4, 5)).astype(np.uint8) * 30 + random.integers(0, 12, (4, 5)).astype(np.uint8)
    novel = novelty(_flat(picture.tolist()), (4, 5), 2, tolerance) > tolerance
    rebuilt = np.zeros((4, 5), int)
    for row in range(4):
        for column in range(5):
            left = rebuilt[row, column - 1] if column else None
            above = rebuilt[row - 1, column] if row else None
            if novel[row, column]:
                rebuilt[row, column] = picture[row, column]
            elif left is None or above is None:
                rebuilt[row, column] = above if left is None else left
            else:
                corner = rebuilt[row - 1, column - 1]
                alike, other = abs(corner - left) <= tolerance, abs(corner - above) > tolerance
                rebuilt[row, column] = above if alike and other else left
    assert np.abs(rebuilt - picture).max() <= tolerance


def test_a_bucket_takes_the_most_novel_in_order() -> None:
    values = np.array([[[FIRST, 0, 7], [0, 9, 0]], [[FIRST, 0, 0], [0, 0, 3]]], np.int16)
    taken = most_novel(values, 3)
    assert taken.dtype == np.int32 and taken.tolist() == [[0, 2, 4], [0, 1, 5]]


@pytest.mark.parametrize("bucket", [0, 3])
def test_what_stands_beside_an_image_that_says_nothing(bucket: int) -> None:
    plan = flat_plan((2, 3), (3, 0), spectrum="1d", bucket=bucket)
    beside = unit_inputs(plan, 2, None)
    assert {name: array.tolist() for name, array in beside.items()} == ({"units": [[0, 1, 2]] * 2} if bucket else {})
