from __future__ import annotations

import numpy as np
import pytest

from luvc_export.core.cost_report import cost
from luvc_export.core.plan import MergePass, Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.runtime.media.token_visualisation import draw

SHAPE = DecoderShape(layers=4, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=256, context=2048)


def test_cost_counts_every_layer_and_the_uncompressed_is_one() -> None:
    plan = Plan((5, 5), (20, 20, 10, 0), (MergePass(3, 1, 0),), schedule="x")
    costs = cost(plan, SHAPE, text=8)
    assert [(s.first, s.last, s.tokens) for s in costs.stages] == [(0, 1, 20), (2, 2, 10), (3, 3, 0)]
    assert sum(s.kv_bytes for s in costs.stages) == costs.kv_bytes == 2 * 2 * 16 * 2 * (20 + 20 + 10 + 4 * 8)
    assert costs.kv_ratio == pytest.approx(4 * (25 + 8) / (20 + 20 + 10 + 4 * 8))
    full = cost(Plan((5, 5), (25,) * 4, last_layer="full"), SHAPE, text=8)
    assert costs.flops == flops(28, 28, 18, 8) and full.flops == flops(33, 33, 33, 33)
    assert costs.flops_ratio == pytest.approx(flops(33, 33, 33, 33) / flops(28, 28, 18, 8))
    assert full.flops_ratio == full.kv_ratio == 1


def flops(*tokens: int) -> int:
    """By hand, of layers with so many tokens: two operations a weight and token, two products of all with all."""
    weights = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128
    return sum(2 * count * weights + 2 * 2 * count * count * 64 for count in tokens)


def test_two_images_take_twice_the_rows() -> None:
    plan = Plan((5, 5), (25, 10, 5, 0))
    one, two = cost(plan, SHAPE), cost(plan, SHAPE, images=2)
    assert [stage.tokens for stage in two.stages] == [50, 20, 10, 0]
    rows = [(stage.kv_bytes - 64 * 2 * 2 * 16 * 2) for stage in (*one.stages, *two.stages)]
    assert rows[4:] == [2 * row for row in rows[:4]] and rows[0] == 25 * 2 * 2 * 16 * 2, "text is there once"


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
