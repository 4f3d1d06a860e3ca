from __future__ import annotations

import math
from fractions import Fraction

import pytest
from flat_plans import flat_plan
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core import budgets
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import PlanError

QWEN_3B = DecoderShape(
    layers=36, hidden=2048, heads=16, kv_heads=2, head_dim=128, intermediate=11008, vocab=151936, context=128000
)


def shape(layers: int) -> DecoderShape:
    return DecoderShape(**{**QWEN_3B.__dict__, "layers": layers})


@pytest.mark.parametrize(
    ("layers", "text", "expected"), [(36, 64, 2.20), (36, 256, 1.88), (12, 64, 2.24), (6, 64, 2.32)]
)
def test_flop_model_gives_the_published_ratios_of_thirds(layers: int, text: int, expected: float) -> None:
    model = shape(layers)
    full = sum(budgets.prefill_flops(model, [1024] * layers, text))
    assert full / sum(budgets.prefill_flops(model, budgets.thirds(layers, 768), text)) == pytest.approx(
        expected, abs=5e-3
    )


def test_flops_of_one_layer_by_hand() -> None:
    tiny = DecoderShape(1, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=10, context=99)
    tokens = 3 + 2
    weights = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 16
    assert budgets.prefill_flops(tiny, [3], 2) == (2 * tokens * weights + 2 * 2 * tokens * tokens * 8,)
    text_only = 2 * (2 * (2 * 8 * 8 + 3 * 8 * 16) + 5 * 2 * 8 * 4 + 2 * 2 * 5 * 8)
    assert budgets.prefill_flops(tiny, [3], 2, "kv_only") == (text_only,)
    two = budgets.prefill_flops(tiny, [3, 3], 2, kv_only=[0])
    assert two == (text_only, *budgets.prefill_flops(tiny, [3], 2)) and two[0] < two[1]
    one, all_ = (budgets.prefill_flops(tiny, [3, 3], 2, "kv_only", [0], sampled=few) for few in (1, 9))
    assert one == (text_only + text_only // 2 - 2 * 5 * 8 * 4, text_only) and all_[0] == two[1]
    half, still = (budgets.prefill_flops(tiny, [4, 4], 2, kv_only=[0], sampled=some) for some in (Fraction(1, 2), 2))
    assert half[0] == still[0] + 4 * 4 * 2 * 8 and half[1] == still[1]  # and what compares 4 tokens with 2
    assert budgets.prefill_flops(tiny, [0], 2, sampled=Fraction(1, 2), kv_only=[0], images=0)[0] > 0
    assert budgets.kv_bytes(tiny, [3], 2) == (2 * 4 * 5 * 2,)


@given(st.sampled_from(sorted(budgets.SCHEDULES)), st.integers(1, 80), st.integers(1, 3000))
def test_every_schedule_makes_a_valid_plan(name: str, layers: int, tokens: int) -> None:
    keep = budgets.schedule(name, layers, tokens)
    assert len(keep) == layers
    assert flat_plan((1, tokens), keep, topk_limit=None).keep[-1] == 0


def test_thirds_and_even_of_the_bundled_model() -> None:
    assert budgets.thirds(6, 80) == (80, 80, 40, 40, 20, 0)
    assert budgets.even(6, 80) == (52, 52, 52, 52, 52, 0)
    assert budgets.even(1, 80) == (0,)


def test_unknown_schedule_suggests() -> None:
    with pytest.raises(PlanError, match="did you mean 'thirds'"):
        budgets.schedule("third", 8, 64)


@given(st.floats(1.4, 6.0))
def test_speedup_is_met_and_not_overdone(speedup: float) -> None:
    keep = budgets.solve_speedup(QWEN_3B, 1024, 768, 64, speedup)
    full = sum(budgets.prefill_flops(QWEN_3B, [1024] * 36, 64))
    reached = full / sum(budgets.prefill_flops(QWEN_3B, keep, 64))
    assert speedup <= reached
    if keep[0] != 768 or keep[-2] > 0:
        assert reached <= speedup * 1.03
    flat_plan((1, 768), keep)


@given(st.floats(8.0, 40.0))
def test_kv_size_is_met(mebibytes: float) -> None:
    keep = budgets.solve_kv(QWEN_3B, 768, 64, mebibytes)
    assert sum(budgets.kv_bytes(QWEN_3B, keep, 64)) <= mebibytes * 2**20


def test_what_cannot_be_met_says_what_is_reached() -> None:
    with pytest.raises(PlanError, match="--speedup cannot be met"):
        budgets.solve_speedup(QWEN_3B, 1024, 768, 512, 50)
    with pytest.raises(PlanError, match="--kv-mib cannot be met"):
        budgets.solve_kv(QWEN_3B, 768, 2000, 1)


@pytest.mark.parametrize("goal", [0.0, -2.0, math.nan, math.inf])
def test_a_goal_is_a_positive_number(goal: float) -> None:
    with pytest.raises(PlanError, match=r"--speedup is no goal\n.*got: .*\n.*positive number"):
        budgets.solve_speedup(QWEN_3B, 1024, 768, 64, goal)
    with pytest.raises(PlanError, match="--kv-mib is no goal"):
        budgets.solve_kv(QWEN_3B, 768, 64, goal)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.2, 1.0))
def test_merge_removals_come_near_the_share(rows: int, columns: int, keep: float) -> None:
    removed = budgets.merge_removals((rows, columns), keep)
    kept = (rows - removed[0]) * (columns - removed[1])
    assert min(rows - removed[0], columns - removed[1]) >= 1
    slack = 0.5 * (1 / rows + 1 / columns) + 1 / (rows * columns)
    assert math.isclose(kept / (rows * columns), keep, abs_tol=slack + 1e-9)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_merge_share_must_be_a_fraction(keep: float) -> None:
    with pytest.raises(PlanError, match="fraction"):
        budgets.merge_removals((9, 9), keep)
