"""Rows that leave a cache: what the decoder sees of the others is what it saw, whatever the mask and the places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.core.shapes import PLACE, ROWS, DecoderShape, State, in_codes, most_rows, spare_rows
from luvc_export.runtime.engine.host_slots import CachedRow, pack_texts
from luvc_export.runtime.host.windows import NOWHERE, Windows, rows_in_sight


def in_sight(
    rows: NDArray[np.int64], places: NDArray[np.int64], mask: NDArray[np.bool_], orders: NDArray[np.int64], window: int
) -> list[list[int]]:
    """Which cached rows the next token of each row sees, as the graph decides: mask from its end, then the window."""
    column = np.arange(len(rows)) - (len(rows) - mask.shape[1])
    valid = np.where(column < 0, True, mask[:, np.maximum(column, 0)])
    seen = valid & (places[:, rows] > orders[:, None] - window)
    return [rows[own].tolist() for own in seen]


def conversation(random: np.random.Generator) -> tuple[Any, ...]:
    """Places, mask, next places and window of rows that have pictures, padding, masked drafts and missing rows."""
    batch, visual, text = int(random.integers(1, 4)), int(random.integers(0, 20)), int(random.integers(1, 40))
    window, before = int(random.integers(1, 40)), int(random.integers(0, 20))
    places = np.empty((batch, visual + text), np.int64)
    mask = np.ones((batch, text), np.bool_)
    orders = np.empty(batch, np.int64)
    for row in range(batch):
        ahead = min(before, text)
        pictures = ahead + np.sort(random.choice(visual + 5, visual, replace=False))
        behind = ahead + visual + 5 + np.arange(text - ahead)
        places[row] = np.concatenate([pictures, np.arange(ahead), behind])
        length = int(random.integers(1, text + 1)) if random.random() < 0.5 else text
        mask[row, length:] = False
        places[row, visual + length :] = 2**40
        mask[row, random.random(text) < random.choice([0, 0, 0.1])] = False
        orders[row] = places[row][places[row] < 2**40].max() + 1 - random.integers(0, 3) if mask[row].any() else 1
        places[row, : int(random.integers(0, 3)) * (row > 0)] = NOWHERE
    return places, mask, orders, window


@pytest.mark.parametrize("seed", range(60))
def test_what_stays_is_seen_as_before(seed: int) -> None:
    places, mask, orders, window = conversation(np.random.default_rng(seed))
    rows = rows_in_sight(places, mask, orders, window)
    whole = np.arange(places.shape[1])
    assert np.array_equal(rows, np.unique(rows)) and np.isin(rows, whole).all() and len(rows)
    for ahead in (0, 1, 3, window):
        assert in_sight(rows, places, mask, orders + ahead, window) == in_sight(
            whole, places, mask, orders + ahead, window
        )


def test_one_row_more_is_missed() -> None:
    """Sabotage of the test above: without the oldest row that stays, somebody sees less."""
    missed = 0
    for seed in range(60):
        places, mask, orders, window = conversation(np.random.default_rng(seed))
        rows = rows_in_sight(places, mask, orders, window)
        whole = np.arange(places.shape[1])
        missed += in_sight(rows[1:], places, mask, orders, window) != in_sight(whole, places, mask, orders, window)
    assert missed > 30


def test_rows_are_bounded_where_each_place_has_one() -> None:
    """One row, text in front of a picture or not: never more than the bound after a call, and copies are few."""
    for window, pictures, ahead in ((8, 0, 0), (16, 6, 30), (64, 40, 100)):
        places = [*range(ahead, ahead + pictures), *range(ahead), *range(ahead + pictures, ahead + pictures + 9)]
        copies, text = 0, len(places) - pictures
        cached = np.array([places])
        for step in range(4 * window):
            order = np.array([ahead + pictures + 9 + step])
            rows = rows_in_sight(cached, np.ones((1, text + step), np.bool_), order, window)
            copies += step > 0 and len(rows) < cached.shape[1]
            cached = cached[:, rows]
            assert cached.shape[1] <= most_rows(window)
            cached = np.concatenate([cached, order[None]], 1)
        assert copies <= 4 * window // (spare_rows(window) + 1) + 1


def test_rows_behind_a_mask_with_holes_keep_their_slots() -> None:
    """Text between a picture and a masked draft goes only if the mask says the same of what moves along."""
    places = np.array([[40, 41, *range(20), 42, 43, 44]])
    hole = np.ones((1, 23), np.bool_)
    free = rows_in_sight(places, hole, np.array([45]), 8)
    assert free.tolist() == [0, 1, 22, 23, 24]
    hole[0, 15] = False  # of the text in front: it is nobody's slot any more once others moved there
    assert rows_in_sight(places, hole, np.array([45]), 8).tolist() == [0, 1, 22, 23, 24]
    hole[0, 18] = False  # where row 0 would move to
    assert rows_in_sight(places, hole, np.array([45]), 8).tolist() == list(range(25))


def test_all_that_lies_beside_a_layers_rows_leaves_with_them() -> None:
    """Codes of caches and their scales too; layers without a window, and states of one size, stay."""
    shape = DecoderShape(3, 8, 2, 1, 4, 8, 16, 64, states=(State(0, PLACE, (ROWS,), "int64", 4), State(2, "sum", (3,))))
    states = in_codes(shape.kept, "float32")
    values = {state.past: np.zeros(state.sizes(1, 9), state.dtype or np.float32) for state in states}
    values["past_states.0.place"] = np.arange(9)[None]
    taken: list[tuple[str, list[int]]] = []

    class Cache:
        lengths = (9, 9, 9)

        def array(self, number: int) -> Any:
            return values[states[number].past]

        def some(self, rows: Any) -> str:
            taken.extend((states[number].past, some.tolist()) for number, some in rows.items())
            return "less"

    cache, plan = Cache(), SimpleNamespace(keep=(0, 0, 0))
    own: Any = Windows(states, plan)  # type: ignore[arg-type]
    assert own.left(cache, np.ones((1, 9), np.bool_), [9]) == "less"
    beside = {f"past_key_values.0.{name}" for name in ("key", "value")}
    assert {name for name, _ in taken} == beside | {"past_states.0.value_scale", "past_states.0.place"}
    assert all(some == [6, 7, 8] for _, some in taken)
    none: Any = Windows((), plan)  # type: ignore[arg-type]
    assert none.left(cache, np.ones((1, 9), np.bool_), [9]) is cache


def test_rows_of_which_others_have_left_are_packed_together() -> None:
    """The one with fewer has zeros in front that no window shows; a layer without a window has all rows still."""
    kinds = [State(0, "key", (1, ROWS, 1)), State(1, "key", (1, ROWS, 1)), State(1, PLACE, (ROWS,), "int64", 4)]
    texts = np.ones(5, np.bool_), np.array([True, True, False])

    def keys(count: int) -> Any:
        return np.arange(1, count + 1, dtype=np.float32).reshape(1, 1, count, 1)

    parts = [
        CachedRow([keys(7), keys(3), np.array([[4, 5, 6]])], 0, texts[0]),
        CachedRow([keys(5), keys(5), np.array([[0, 1, 2, 3, 9]])], 0, texts[1]),
    ]
    (whole, near, places), mask = pack_texts(parts, kinds)
    assert whole[:, 0, :, 0].tolist() == [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 0, 0, 0]]
    assert places.tolist()[0] == [NOWHERE, NOWHERE, NOWHERE, NOWHERE, 4, 5, 6][-places.shape[1] :]
    assert near.shape[2] == places.shape[1] == 7 and near[1, 0, :4, 0].tolist() == [1, 2, 3, 4]
    assert places[1, :4].tolist() == [0, 1, 2, 3] and mask.tolist() == [[True] * 5, [True, True, False, False, False]]
