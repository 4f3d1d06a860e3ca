"""``luvc_export.core.token_layout`` as the runtime uses it, against transformers' own positions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from luvc_export.core.token_layout import Clip, Mosaic, arrange
from luvc_export.errors import UsageError

IMAGE = 99


def raster(rows: int, columns: int, images: int) -> NDArray[np.float32]:
    """Positions the vision graph gives when nothing is merged: float32 [images, rows * columns, 2]."""
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    return np.broadcast_to(places.astype(np.float32), (images, rows * columns, 2))


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 1), (4, 4)])
@pytest.mark.parametrize(
    "prompt",
    [[5], [5, 6, 7], [IMAGE, 5], [5, IMAGE], [5, 6, IMAGE, 7, 8], [IMAGE, 5, IMAGE, 6], [5, IMAGE, 6, IMAGE, 7, IMAGE]],
    ids=str,
)
def test_positions_are_those_of_get_rope_index(prompt: list[int], grid: tuple[int, int]) -> None:
    rows, columns = grid
    images, units = prompt.count(IMAGE), rows * columns
    full = [token for item in prompt for token in ([IMAGE] * units if item == IMAGE else [item])]
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=4)),
        get_vision_position_ids=lambda *a, **k: Qwen2_5_VLModel.get_vision_position_ids(None, *a, **k),  # type: ignore[arg-type]
    )
    ids = torch.tensor([full])
    thw = torch.tensor([[1, 2 * rows, 2 * columns]] * images).reshape(-1, 3)
    wanted, delta = Qwen2_5_VLModel.get_rope_index(model, ids, (ids == IMAGE).int(), thw)  # type: ignore[arg-type]

    layout = arrange(prompt, IMAGE, raster(rows, columns, images), grid, "mrope")
    got = np.zeros((3, len(full)), np.float32)
    got[:, layout.order[0]] = layout.position_ids[:, 0]
    got[:, layout.visual_order[0]] = layout.visual_position_ids[:, 0]
    np.testing.assert_array_equal(got, wanted[:, 0].numpy())
    assert layout.next_order == len(full)
    assert layout.next_position == len(full) + int(delta)
    assert sorted([*layout.order[0], *layout.visual_order[0]]) == list(range(len(full)))
    assert [prompt_token for prompt_token in prompt if prompt_token != IMAGE] == layout.input_ids[0].tolist()


def test_merged_tokens_stay_below_the_text_after_them() -> None:
    places = np.array([[[0.5, 1.5], [2.0, 0.25]]], np.float32)  # 2 tokens left of a 3 x 4 grid
    layout = arrange([5, IMAGE, 6], IMAGE, places, (3, 4), "mrope")
    np.testing.assert_array_equal(layout.visual_position_ids[:, 0], [[1, 1], [1.5, 3.0], [2.5, 1.25]])
    assert layout.visual_order.tolist() == [[1, 2]]
    assert layout.order.tolist() == [[0, 13]]
    assert layout.position_ids[:, 0].tolist() == [[0, 5]] * 3
    assert (layout.next_position, layout.next_order) == (6, 14)


def test_sequential_positions() -> None:
    layout = arrange([5, IMAGE, 6, IMAGE], IMAGE, raster(2, 3, 2), (2, 3), "sequential")
    assert layout.visual_position_ids[:, 0].tolist() == [[1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]]
    assert layout.position_ids[:, 0].tolist() == [[0, 7]]
    assert layout.next_position == layout.next_order == 14


def test_copies_take_axes_of_their_own() -> None:
    places = np.array([[[0, 1, 2, 3]]], np.float32)  # one token made of the units (0, 1) and (2, 3)
    layout = arrange([5, IMAGE, 6], IMAGE, places, (4, 4), "mrope")
    assert layout.visual_position_ids[:, 0, 0].tolist() == [1, 1, 2, 1, 3, 4]
    assert layout.position_ids[:, 0].tolist() == [[0, 5]] * 6
    layout = arrange([5, IMAGE, 6], IMAGE, places, (4, 4), "sequential")
    assert layout.visual_position_ids[:, 0, 0].tolist() == [2, 12]
    assert layout.position_ids.shape == (2, 1, 2)


def test_shapes_and_dtypes_without_an_image() -> None:
    layout = arrange([5, 6], IMAGE, np.zeros((0, 9, 2), np.float32), (3, 3), "mrope")
    assert layout.visual_position_ids.shape == (3, 1, 0)
    assert layout.visual_order.shape == (1, 0)
    assert layout.input_ids.dtype == layout.order.dtype == layout.visual_order.dtype == np.int64
    assert layout.position_ids.dtype == layout.visual_position_ids.dtype == np.float32


def test_a_continuation_starts_where_the_prompt_ended() -> None:
    first = arrange([5, IMAGE, 6], IMAGE, raster(2, 2, 1), (2, 2), "mrope")
    whole = arrange([5, IMAGE, 6, 7, IMAGE, 8], IMAGE, raster(2, 2, 2), (2, 2), "mrope")
    start = {"first_position": first.next_position, "first_order": first.next_order}
    second = arrange([7, IMAGE, 8], IMAGE, raster(2, 2, 1), (2, 2), "mrope", **start)
    np.testing.assert_array_equal(second.position_ids, whole.position_ids[:, :, 2:])
    np.testing.assert_array_equal(second.visual_position_ids, whole.visual_position_ids[:, :, 4:])
    np.testing.assert_array_equal(second.order, whole.order[:, 2:])
    np.testing.assert_array_equal(second.visual_order, whole.visual_order[:, 4:])


@pytest.mark.parametrize("prompt", [[5], [IMAGE, IMAGE, 5]])
def test_placeholders_and_images_must_agree(prompt: list[int]) -> None:
    with pytest.raises(UsageError, match=f"{prompt.count(IMAGE)} placeholders, 1 images"):
        arrange(prompt, IMAGE, raster(2, 2, 1), (2, 2), "mrope")


def test_a_mosaic_is_one_grid_with_line_ends() -> None:
    """Two tiles side by side: rows run through both, and each ends with a text token."""
    layout = arrange(
        [5, IMAGE, IMAGE, 8, 9, 6], IMAGE, raster(2, 2, 2), (2, 2), "sequential", blocks={0: Mosaic((1, 2))}
    )
    assert layout.visual_order.tolist() == [[1, 2, 6, 7, 3, 4, 8, 9]]
    assert layout.input_ids.tolist() == [[5, 8, 9, 6]]
    assert layout.order.tolist() == [[0, 5, 10, 11]]
    np.testing.assert_array_equal(layout.visual_position_ids[0], layout.visual_order.astype(np.float32))
    assert layout.next_position == layout.next_order == 12


def test_a_clip_shares_rows_and_columns_and_goes_on_in_time() -> None:
    layout = arrange([5, IMAGE, IMAGE, 6], IMAGE, raster(1, 2, 2), (1, 2), "mrope", blocks={0: Clip(2, 2.5)})
    np.testing.assert_array_equal(layout.visual_position_ids[:, 0], [[1, 1, 3, 3], [1, 1, 1, 1], [1, 2, 1, 2]])
    assert layout.visual_order.tolist() == [[1, 2, 3, 4]]
    assert layout.position_ids[:, 0].tolist() == [[0, 4]] * 3
