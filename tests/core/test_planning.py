from __future__ import annotations

import dataclasses

import pytest
from flat_plans import flat_plan, flat_request, replan
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.budgets import kv_bytes
from luvc_export.core.plan import MergePass, Plan
from luvc_export.core.planning import check_model, place_merges, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError

LLM = DecoderShape(layers=36, hidden=2048, heads=16, kv_heads=2, head_dim=128, intermediate=11008, vocab=9, context=999)
VISION = EncoderShape(blocks=32, hidden=1280, intermediate=3420, unit=4, window=4, full_attention=(7, 15, 23, 31))


@pytest.mark.parametrize("attending", [(), (0,)])
def test_a_tower_without_full_attention_in_its_later_half_merges_at_its_end(attending: tuple[int, ...]) -> None:
    """Qwen2.5-VL's config may name no block, or early ones alone: it was an IndexError."""
    shape = dataclasses.replace(VISION, full_attention=attending)
    assert {step.block for step in place_merges((32, 32), 0.5, shape)} == {VISION.blocks - 1}


def test_default_spreads_merging_over_the_later_full_attention_blocks() -> None:
    plan = solve(flat_request("thirds"), (32, 32), LLM, VISION)
    assert [merge.block for merge in plan.encoder.merges] == [15, 23, 31]
    assert plan.merged_grid == (27, 28)
    assert plan.keep[0] == 27 * 28 and plan.keep[-1] == 0 and plan.schedule == "thirds"


def test_none_keeps_everything_and_merges_nothing() -> None:
    plan = solve(flat_request("none"), (5, 7), LLM, VISION)
    assert plan.keep == (35,) * 36 and plan.encoder.merges == () and plan.llm.last_layer == "full" and plan.prunes == ()


def test_kv_only_keeps_the_last_stage() -> None:
    plan = solve(flat_request(last_layer="kv_only"), (32, 32), LLM, VISION)
    assert plan.keep[-1] == plan.keep[-2] > 0


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1.0))
def test_any_share_of_any_grid_is_a_valid_plan(rows: int, columns: int, share: float) -> None:
    plan = solve(flat_request(merge_keep=share), (rows, columns), LLM, VISION)
    assert plan.encoder.merges == place_merges((rows, columns), share, VISION)


def test_speedup_and_kv_together_are_refused() -> None:
    with pytest.raises(PlanError, match="both choose the budgets"):
        solve(flat_request(speedup=2, kv_mib=20), (32, 32), LLM, VISION)


def test_budgets_of_another_model_and_a_block_beyond_the_tower_are_refused_together() -> None:
    with pytest.raises(PlanError) as error:
        solve(flat_request([10, 5, 0], merge_at=(32,)), (32, 32), LLM, VISION)
    assert "got 3 budgets, the model has 36 layers" in str(error.value)
    assert "merges[0]: after block 32; the encoder's are 0 to 31" in str(error.value)


def test_a_joint_budget_counts_every_image_and_speeds_up_as_much() -> None:
    """Budgets, FLOPs and cache are those of the whole video."""
    one = solve(flat_request("thirds"), (16, 16), LLM, VISION)
    film = solve(flat_request("thirds", joint_images=8), (16, 16), LLM, VISION)
    assert film.span_tokens == 8 * one.vision_tokens and film.encoder.merges == one.encoder.merges
    assert film.keep == tuple(8 * keep for keep in one.keep)
    assert film.prunes[0][1] == film.span_tokens
    cached = solve(flat_request(kv_mib=20, joint_images=8), (16, 16), LLM, VISION)
    assert sum(kv_bytes(LLM, cached.keep, 64)) <= 20 * 2**20 < sum(kv_bytes(LLM, film.keep, 64))
    assert solve(flat_request("none", joint_images=8), (16, 16), LLM, VISION).keep[0] == 8 * 256
    assert Plan.from_json(film.to_json()) == film


def test_joint_budgets_that_cannot_be() -> None:
    with pytest.raises(PlanError, match=r"sharing\.images: got 0"):
        flat_plan((2, 2), (4, 0), joint_images=0)
    with pytest.raises(PlanError, match="reducer: merging in the LLM needs one grid"):
        flat_plan((2, 2), (4, 0), joint_images=2, reducer="merge")
    with pytest.raises(PlanError, match=r"keep\[0\]: got 9, expected 0 to 8"):
        flat_plan((2, 2), (9, 0), joint_images=2)


def test_merge_schedules_begin_at_a_fifth_of_the_depth() -> None:
    for name in ("gradual", "early", "windows"):
        plan = solve(flat_request(merge_keep=0.5, merge_schedule=name), (32, 32), LLM, VISION)
        assert plan.encoder.merges[0].block == 6 and 0.4 < plan.vision_tokens / 1024 < 0.6, name
    assert [step.block for step in place_merges((32, 32), 0.5, VISION, schedule="gradual")] == [6, 12, 19]
    assert place_merges((32, 32), 0.5, VISION, schedule="windows") == (MergePass(6, 0, 2, 4),)
    assert place_merges((32, 32), 1, VISION, schedule="windows") == ()
    with pytest.raises(PlanError, match="unknown schedule of merges"):
        solve(flat_request(merge_schedule="erly"), (32, 32), LLM, VISION)


def test_windows_that_are_not_the_encoders_are_refused() -> None:
    plan = solve(flat_request("none"), (8, 8), LLM, VISION)
    wrong = replan(plan, merges=(MergePass(7, 1, 1, 3),), keep=(25,) * 36)
    with pytest.raises(PlanError, match="inside windows of 3 units a side; the encoder's have 4"):
        check_model(wrong, LLM, VISION)
