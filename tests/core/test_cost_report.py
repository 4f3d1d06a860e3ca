from __future__ import annotations

import numpy as np
import pytest
import torch
from flat_plans import flat_plan
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.cli.tables.named import cost_table
from luvc_export.core.plan import MergePass
from luvc_export.core.plan.cost import _after_merging, cost, padded
from luvc_export.core.shapes import DecoderShape
from luvc_export.export.compression import oim
from luvc_export.runtime.media.token_visualisation import draw

SHAPE = DecoderShape(layers=4, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=256, context=2048)


def test_cost_counts_every_layer_and_the_uncompressed_is_one() -> None:
    plan = flat_plan((5, 5), (20, 20, 10, 0), (MergePass(3, 1, 0),), schedule="x")
    costs = cost(plan, SHAPE, text=8)
    assert [(s.first, s.last, s.tokens) for s in costs.stages] == [(0, 1, 20), (2, 2, 10), (3, 3, 0)]
    assert sum(s.kv_bytes for s in costs.stages) == costs.kv_bytes == 2 * 2 * 16 * 2 * (20 + 20 + 10 + 4 * 8)
    assert costs.kv_ratio == pytest.approx(4 * (25 + 8) / (20 + 20 + 10 + 4 * 8))
    full = cost(flat_plan((5, 5), (25,) * 4, last_layer="full"), SHAPE, text=8)
    assert costs.flops == flops(28, 28, 18, 8) and full.flops == flops(33, 33, 33, 33)
    assert costs.flops_ratio == pytest.approx(flops(33, 33, 33, 33) / flops(28, 28, 18, 8))
    assert full.flops_ratio == full.kv_ratio == 1


def test_a_frozen_layer_is_a_stage_of_its_own_and_costs_the_text_and_the_keys() -> None:
    plan = flat_plan((5, 5), (25, 25, 25, 0), kv_only=(1,))
    costs, whole = cost(plan, SHAPE, text=8), cost(flat_plan((5, 5), (25, 25, 25, 0)), SHAPE, text=8)
    assert [(s.first, s.last, s.tokens, s.kv_only) for s in costs.stages] == [
        (0, 0, 25, False), (1, 1, 25, True), (2, 2, 25, False), (3, 3, 0, False),
    ]  # fmt: skip
    text_alone = 2 * 8 * (2 * 64 * 64 + 3 * 64 * 128) + 2 * 33 * 2 * 64 * 32 + 2 * 2 * 8 * 33 * 64
    assert costs.stages[1].flops == text_alone and costs.kv_bytes == whole.kv_bytes
    assert whole.flops - costs.flops == flops(33) - text_alone


def flops(*tokens: int) -> int:
    """By hand, of layers with so many tokens: two operations a weight and token, two products of all with all."""
    weights = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128
    return sum(2 * count * weights + 2 * 2 * count * count * 64 for count in tokens)


def test_two_images_take_twice_the_rows() -> None:
    plan = flat_plan((5, 5), (25, 10, 5, 0))
    one, two = cost(plan, SHAPE), cost(plan, SHAPE, images=2)
    assert [stage.tokens for stage in two.stages] == [50, 20, 10, 0]
    rows = [(stage.kv_bytes - 64 * 2 * 2 * 16 * 2) for stage in (*one.stages, *two.stages)]
    assert rows[4:] == [2 * row for row in rows[:4]] and rows[0] == 25 * 2 * 2 * 16 * 2, "text is there once"


@given(st.integers(2, 14), st.integers(0, 14), st.integers(0, 14), st.integers(1, 7), st.integers(0, 99))
def test_padding_is_counted_as_the_encoder_merges_it(width: int, a: int, b: int, removed: int, seed: int) -> None:
    removed, line = min(removed, width // 2), [min(a, b) <= place < max(a, b) for place in range(width)]
    x = torch.randn(1, width, 5, generator=torch.Generator().manual_seed(seed))
    sizes = torch.where(torch.tensor(line), 1.0, oim.PADDING)[None, :, None]
    merged = (oim.assign(x, removed, sizes) @ sizes)[0, :, 0] > oim.HALF
    left = _after_merging(line, removed)
    assert (len(left), sum(left)) == (width - removed, int(merged.sum()))


def test_budgets_above_the_picture_are_told() -> None:
    plan = flat_plan((8, 8), (30, 12, 0), (MergePass(0, 2, 2),))
    half = padded(plan, SHAPE, 2.0)
    assert (half.units, half.tokens) == (32, 24), "two rows of padding left, two columns of picture"
    assert half.padding == (6, 0, 0)
    one = sum(stage.flops for stage in cost(flat_plan((8, 8), (24, 12, 0), plan.encoder.merges), SHAPE).stages)
    assert half.flops_share == pytest.approx(1 - one / cost(plan, SHAPE).flops)
    square = padded(plan, SHAPE, 1.0)
    assert (square.units, square.tokens, square.padding, square.flops_share) == (64, 36, (0, 0, 0), 0)
    assert padded(plan, SHAPE, 8.0).units == 16, "a unit at the edge counts as picture"


def test_survival_picture_darkens_what_was_dropped() -> None:
    canvas = np.full((80, 80, 3), 200, np.uint8)
    merged_into = np.array([0, 0, 1, 2])
    sheet = np.asarray(draw(canvas, (2, 2), merged_into, {3: np.array([0]), 5: np.zeros(0, np.int64)}, panel=160))
    panels = [sheet[34:194, 12 + i * 172 : 172 + i * 172] for i in range(3)]
    assert panels[0][40, 40].mean() > 190 and panels[0][120, 120].mean() > 190
    assert panels[1][40, 40].mean() > 190 and panels[1][40, 120].mean() > 190
    assert panels[1][120, 40].mean() < 80 and panels[2][40, 40].mean() < 80
    assert panels[0][40, 80].mean() < 220, "no border inside one token"
    assert panels[0][120, 80].mean() > 250, "a border between two tokens"
    sheet = np.asarray(draw(canvas, (2, 2), merged_into, {3: np.array([0]), 5: np.zeros(0, np.int64)}, 160, means=[3]))
    red, _, blue = sheet[34 + 120, 12 + 172 + 40].astype(int)
    assert blue > red + 60, "dropped into the mean"
    assert len(set(sheet[34 + 120, 12 + 2 * 172 + 40].tolist())) == 1, "a budget of 0 has none"


def test_an_aggregate_costs_what_the_row_costs_whose_place_it_takes() -> None:
    plan = flat_plan((8, 8), (64, 20, 7, 0), aggregate=True)
    assert cost(plan, SHAPE) == cost(flat_plan((8, 8), (64, 20, 7, 0)), SHAPE)
    table = cost_table(plan, cost(plan, SHAPE, images=2))
    assert list(table.columns[1].cells)[:4] == [
        "128",
        "40, 2 the mean of what was dropped",
        "14, 2 the mean of what was dropped",
        "0",
    ]
    shared = flat_plan((4, 4), (64, 20, 7, 0), joint_images=4, quota="v-cast")
    assert "4 images share a budget, divided by quota v-cast" in cost_table(shared, cost(shared, SHAPE)).title
