"""What a plan says of the encoder: JSON both ways, every problem at once, counts, FLOPs, words for people."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from flat_plans import flat_plan, flat_request
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.options import asked_of
from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.core.plan.cost import encoder_flops, encoder_ratio, padded
from luvc_export.core.plan.merging import MergePass
from luvc_export.core.planning import EncoderPruneRequest, EncoderRequest, check_model, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError, UsageError

LLM = DecoderShape(layers=3, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=9, context=999)
VISION = EncoderShape(16, 1280, 3420, unit=4, window=4, full_attention=(7, 15), gated=True)


HOW = st.sampled_from([(0, "all"), (4, "all"), (4, "none")])


@given(st.integers(2, 20), st.integers(2, 20), st.floats(0.01, 0.99), HOW)
def test_counts_and_json(rows: int, columns: int, keep: float, how: tuple[int, str]) -> None:
    window, restore = how
    prune = EncoderPrune(5, keep, window=window, restore=restore)  # type: ignore[arg-type]
    plan = flat_plan((rows, columns), (0,), (MergePass(2, 0, 1, 4),), encoder_prune=prune)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    merged = plan.merged_grid[0] * plan.merged_grid[1]
    assert 1 <= plan.encoder.last_units <= merged
    assert plan.vision_tokens == (merged if restore == "all" else plan.encoder.last_units)


def test_a_plan_without_them_says_so() -> None:
    data = flat_plan((4, 4), (16, 0), (MergePass(1, 0, 0),)).to_json()
    assert data["encoder"]["prune"] is None
    assert data["encoder"]["merges"] == [{"block": 1, "rows": 0, "columns": 0, "window": 0}]


def test_every_problem_of_a_prune_is_told() -> None:
    with pytest.raises(PlanError) as error:
        wrong = EncoderPrune(3, 1.5, window=-1, stabilise=-1, neighbours=0, score="best", restore="some")  # type: ignore[arg-type]
        flat_plan((4, 4), (0,), (MergePass(4, 1, 0),), encoder_prune=wrong)
    for text in (
        "encoder.prune.restore: got 'some', expected one of all, none",
        "encoder.prune.score: got 'best'",
        "encoder.prune.keep: got 1.5, expected a share in (0, 1)",
        "encoder.prune.window: got -1",
        "encoder.prune.stabilise: got -1",
        "encoder.prune.neighbours: got 0, expected at least 1",
        "merges: after block 4, where the units that block 3 removed are missing: merge before",
    ):
        assert text in str(error.value), text


def test_what_needs_the_grid_is_refused_where_units_stay_away() -> None:
    gone = EncoderPrune(3, 0.5, restore="none")
    with pytest.raises(PlanError, match=r"spectrum: '2d' needs the grid, of which encoder\.prune restores 'none'"):
        flat_plan((4, 4), (4, 0), encoder_prune=gone)
    with pytest.raises(PlanError, match="reducer: 'merge' needs the grid"):
        flat_plan((4, 4), (4, 0), encoder_prune=gone, reducer="merge", score="norm")
    assert flat_plan((4, 4), (4, 0), encoder_prune=gone, spectrum="1d").prunes == ((0, 8, 4), (1, 4, 0))
    assert flat_plan((4, 4), (4, 0), encoder_prune=replace(gone, restore="all")).vision_tokens == 16


def test_what_does_not_fit_the_tower_is_refused_together() -> None:
    prune = EncoderPrune(14, 0.5, window=3, stabilise=4)
    plan = flat_plan((8, 8), (40, 40), (MergePass(2, 0, 1, 3),), last_layer="full", encoder_prune=prune)
    with pytest.raises(PlanError) as error:
        check_model(plan, LLM, VISION)
    for text in (
        "got 2 budgets, the model has 3 layers",
        "inside windows of 3 units a side; the encoder's have 4",
        "encoder.prune.stabilise: 4 blocks after block 14; 1 are left",
        "encoder.prune.window: got 3, expected 0 or the encoder's 4",
    ):
        assert text in str(error.value), text
    with pytest.raises(PlanError, match=r"encoder\.prune: after block 16; the encoder's are 0 to 15"):
        solve(flat_request(encoder_prune=EncoderPruneRequest(0.5, 16)), (8, 8), LLM, VISION)
    with pytest.raises(PlanError, match="the encoder has none"):
        bare = replace(VISION, window=0, full_attention=tuple(range(16)))
        check_model(
            flat_plan((8, 8), (64,) * 3, last_layer="full", encoder_prune=EncoderPrune(1, 0.5, window=4)), LLM, bare
        )


def test_quotas_that_do_not_fit_a_window_and_windows_of_two_sizes_are_refused() -> None:
    with pytest.raises(PlanError) as error:
        flat_plan((8, 8), (0,), (MergePass(0, 3, 1, 4), MergePass(1, 0, 3, 4)))
    assert "merges[0]: 3 rows of 4 a window: a pass removes 0 to 2" in str(error.value)
    assert "merges[1]: 3 columns of 3 a window: a pass removes 0 to 1" in str(error.value)
    with pytest.raises(PlanError, match="windows of 2 units a side after windows of 4"):
        flat_plan((8, 8), (0,), (MergePass(0, 1, 1, 4), MergePass(1, 1, 1, 2)))


@pytest.mark.parametrize("data", [7, {"keep": 0.5}, {"block": 1, "keep": 0.5, "blocks": 2}])
def test_json_that_is_no_prune_is_refused(data: object) -> None:
    with pytest.raises(PlanError, match=r"a JSON object is expected|the plan's fields are wrong"):
        Plan.from_json({"grid": [4, 4], "keep": [0], "encoder_prune": data}, "p.json")
    with pytest.raises(PlanError, match="expected a whole number"):
        Plan.from_json({"grid": [4, 4], "keep": [0], "encoder_prune": {"block": 1.5, "keep": 0.5}}, "p.json")


def test_options_make_a_prune_and_leave_merging_out() -> None:
    (asked,) = [each for each in asked_of(EncoderRequest, "plan") if each.name == "prune"]
    wanted = asked.value("0.4@5")
    plan = solve(flat_request(encoder_prune=wanted), (32, 32), LLM, VISION)
    assert plan.encoder.prune == EncoderPrune(5, 0.4) and plan.encoder.merges == () and plan.vision_tokens == 1024
    assert solve(
        flat_request(encoder_prune=EncoderPruneRequest(0.4)), (32, 32), LLM, VISION
    ).encoder.prune == EncoderPrune(5, 0.4)
    assert asked.value(None) is None and EncoderRequest(prune=wanted, restore="none").prune == replace(
        EncoderPruneRequest(0.4, 5), restore="none"
    )
    with pytest.raises(UsageError, match="cannot read the share"):
        asked.value("half")
    with pytest.raises(UsageError, match="all units stay"):
        EncoderRequest(restore="none")


def test_lean_prunes_the_encoder_at_a_share_of_its_depth() -> None:
    plan = solve(flat_request("lean"), (32, 32), LLM, VISION)
    assert plan.encoder.prune == EncoderPrune(3, 0.75) and plan.encoder.merges == () and plan.schedule == "lean"
    assert plan.llm.last_layer == "kv_only"
    own = solve(flat_request("lean", encoder_prune=EncoderPruneRequest(0.5)), (32, 32), LLM, VISION)
    assert own.encoder.prune == EncoderPrune(5, 0.5)
    assert solve(flat_request("lean", last_layer="full"), (32, 32), LLM, VISION).llm.last_layer == "full"
    with pytest.raises(PlanError, match="--speedup solves the budgets itself"):
        solve(flat_request("fast", speedup=2.0), (32, 32), LLM, VISION)
    with pytest.raises(PlanError, match="did you mean 'fast'"):
        solve(flat_request("fasst"), (32, 32), LLM, VISION)


def test_flops_follow_what_is_computed() -> None:
    plain = flat_plan((32, 32), (0,))
    linear = 4 * 1024 * (4 * 1280**2 + 3 * 1280 * 3420)
    assert encoder_flops(plain.encoder, VISION)[0] == 2 * linear + 4 * 64 * (16 * 4) ** 2 * 1280
    assert encoder_flops(plain.encoder, VISION)[7] == 2 * linear + 4 * 4096**2 * 1280
    late = flat_plan((32, 32), (0,), encoder_prune=EncoderPrune(15, 0.5, restore="none"))
    assert encoder_ratio(late.encoder, VISION) == 1
    ratios = [
        encoder_ratio(flat_plan((32, 32), (0,), encoder_prune=EncoderPrune(5, keep)).encoder, VISION)
        for keep in (0.75, 0.4)
    ]
    assert 1.1 < ratios[0] < 1.3 and 1.5 < ratios[1] < 1.7
    seen = flat_plan((32, 32), (0,), encoder_prune=EncoderPrune(5, 0.4, stabilise=3))
    assert 1 < encoder_ratio(seen.encoder, VISION) < ratios[1]
    merged = flat_plan((32, 32), (0,), (MergePass(3, 1, 1, 4),))
    assert encoder_flops(merged.encoder, VISION)[4] * 1.7 < encoder_flops(plain.encoder, VISION)[4]


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_hostile_grid_of_many_windows_is_counted_at_once(window: int) -> None:
    """Windows are counted by size: 8192 x 8192 units are 67 million windows of one."""
    keep, shape = 0.3, replace(VISION, window=window)
    began = time.process_time()
    plan = flat_plan(
        (8191, 8191), (0,), encoder_prune=EncoderPrune(3, keep, window=window, restore="none"), topk_limit=None
    )
    full, rest = divmod(8191, window)
    sizes = [(window, full), (rest, 1 if rest else 0)]
    parts = [(a * b, m * n) for a, m in sizes for b, n in sizes if m * n]
    assert plan.encoder.last_units == sum(number * max(1, round(keep * units)) for units, number in parts)
    assert len(encoder_flops(plan.encoder, shape)) == 16
    assert time.process_time() - began < 1


def test_padding_merges_inside_its_windows() -> None:
    """A picture in the middle third of the columns of one window's width each: windows of padding keep theirs."""
    plan = flat_plan((4, 12), (36, 0), (MergePass(0, 0, 1, 4),))
    assert plan.merged_grid == (4, 9)
    assert padded(plan, LLM, 1.0).tokens == 4 * 3
