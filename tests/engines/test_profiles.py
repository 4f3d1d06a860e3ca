from __future__ import annotations

from typing import Any

import pytest
from flat_plans import flat_plan
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core import graph_io
from luvc_export.core.plan import MergePass
from luvc_export.engines.profiles import Capacity, profiles
from luvc_export.errors import CheckFailed, UsageError

PLAN = flat_plan(grid=(4, 6), keep=(12, 6, 0), merges=(MergePass(1, 1, 1),))
SHAPES = {
    graph_io.VISUAL_EMBEDS: (-1, -1, PLAN.vision_tokens, 64),
    graph_io.INPUT_IDS: (-1, -1),
    graph_io.VISUAL_POSITION_IDS: (3, -1, -1),
    graph_io.POSITION_IDS: (3, -1, -1),
    graph_io.VISUAL_ORDER: (-1, -1),
    graph_io.ORDER: (-1, -1),
    graph_io.TEXT_MASK: (-1, -1),
    graph_io.LOGITS_INDICES: (-1, -1),
    graph_io.VISUAL_PADDING: (-1, -1, PLAN.vision_tokens),
    **dict.fromkeys(graph_io.past_names(3), (-1, 2, -1, 32)),
}


def test_one_wide_profile() -> None:
    (wide,) = profiles(SHAPES, PLAN, Capacity(256, groups=2, batch=4), "wide")
    assert wide.name == "wide"
    assert wide.minimum[graph_io.VISUAL_EMBEDS] == (1, 0, 15, 64)
    assert wide.maximum[graph_io.VISUAL_EMBEDS] == (4, 2, 15, 64)
    assert wide.minimum[graph_io.VISUAL_PADDING] == (1, 0, 15) and wide.maximum[graph_io.VISUAL_PADDING] == (4, 2, 15)
    assert wide.maximum["past_key_values.1.key"] == (4, 2, 2 * 6 + 256, 32)
    assert wide.maximum["past_key_values.2.key"] == (4, 2, 256, 32)
    assert wide.maximum[graph_io.LOGITS_INDICES] == (4, 1)
    assert wide.optimum[graph_io.INPUT_IDS] == (1, 64)


def test_prefill_and_decode() -> None:
    prefill, decode = profiles(SHAPES, PLAN, Capacity(256), "pair")
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert decode.minimum[graph_io.INPUT_IDS] == decode.maximum[graph_io.INPUT_IDS] == (1, 1)
    assert decode.maximum[graph_io.VISUAL_EMBEDS] == (1, 0, 15, 64)
    assert decode.optimum["past_key_values.0.key"] == (1, 2, 12 + 128, 32)
    assert prefill.optimum["past_key_values.0.key"] == (1, 2, 0, 32)


def test_pictures() -> None:
    shapes = {graph_io.IMAGE: (-1, 1, 56, 84, 3), graph_io.PADDING: (-1, 4, 6)}
    (image,) = profiles(shapes, PLAN, Capacity(16, groups=3), "pair")
    assert (image.minimum["image"][0], image.maximum["image"][0]) == (1, 3)
    assert (image.minimum["padding"], image.maximum["padding"]) == ((1, 4, 6), (3, 4, 6))


def test_fixed_sizes_are_in_no_profile() -> None:
    fixed = {**SHAPES, "past_text": (1,), "past_key_values.0.key": (1, 2, 268, 32)}
    (wide,) = profiles(fixed, PLAN, Capacity(256), "wide")
    assert "past_text" not in wide.minimum and "past_key_values.0.key" not in wide.minimum


@pytest.mark.parametrize("shape", [(-1, 2, 3), (-1, 0, -1, 64)])
def test_an_open_size_the_contract_fixes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckFailed, match="open sizes that the contract does not know"):
        profiles({**SHAPES, graph_io.VISUAL_EMBEDS: shape}, PLAN, Capacity(256), "wide")
    with pytest.raises(CheckFailed, match="where: new_input"):
        profiles({**SHAPES, "new_input": (-1,)}, PLAN, Capacity(256), "wide")


@pytest.mark.parametrize("name", ["text", "groups", "batch", "logits"])
def test_capacities_are_positive(name: str) -> None:
    with pytest.raises(UsageError, match=f"where: {name}"):
        Capacity(**{"text": 8, name: 0})


COUNT = st.integers(1, 5)


@given(text=st.integers(1, 300), images=COUNT, batch=COUNT, kind=st.sampled_from(["wide", "pair"]))
def test_smallest_best_largest_are_in_order(text: int, images: int, batch: int, kind: Any) -> None:
    for profile in profiles(SHAPES, PLAN, Capacity(text, images, batch), kind):
        for name, low in profile.minimum.items():
            for a, b, c in zip(low, profile.optimum[name], profile.maximum[name], strict=True):
                assert 0 <= a <= b <= c
