from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.vision_utils import get_vision_window_index

from luvc_export.export.towers.rotary_position_vit import edges, layout


@given(st.integers(1, 14), st.integers(1, 14))
def test_windows_hold_the_same_units_as_transformers(rows: int, columns: int) -> None:
    index, ends = get_vision_window_index(
        torch.tensor([[1, 2 * rows, 2 * columns]]), spatial_merge_size=2, window_size=112, patch_size=14
    )
    pairs = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    expected = {frozenset(index[a // 4 : b // 4].tolist()) for a, b in pairs}
    ours = layout(rows, columns, 4)
    begin, windows = 0, set()
    for number, length in ours.batches:
        for _ in range(number):
            windows.add(frozenset(ours.order[begin : begin + length]))
            begin += length
    assert windows == expected and begin == rows * columns
    assert [ours.order[place] for place in ours.inverse] == list(range(rows * columns))
    assert len(ours.batches) <= 4


def test_no_window_is_one_window() -> None:
    assert layout(3, 5, 0).batches == ((1, 15),)


def test_area_windows_scale_their_edges_with_the_merged_grid() -> None:
    assert edges(8, 4) == [0, 4, 8]
    assert edges(6, 4, original=8) == [0, 3, 6]
    assert layout(6, 6, 4, original=(8, 8)).batches == ((4, 9),)
