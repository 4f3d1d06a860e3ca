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
    assert costs.flops_ratio > 1 and costs.kv_ratio > 1
    full = cost(Plan((5, 5), (25,) * 4, last_layer="full"), SHAPE, text=8)
    assert full.flops_ratio == full.kv_ratio == 1
    assert full.flops / costs.flops == pytest.approx(costs.flops_ratio)


def test_two_images_take_twice_the_rows() -> None:
    plan = Plan((5, 5), (25, 10, 5, 0))
    assert cost(plan, SHAPE, images=2).stages[1].tokens == 20


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
