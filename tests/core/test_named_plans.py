"""Named plans: recipes that scale, and what a user says beside a name."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from flat_plans import flat_request
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.budgets import prefill_flops
from luvc_export.core.named_plans import CLIPS, DEFAULT_PLAN, NAMED, PICTURES, QUANTISED, SOLVED_AS, UNLISTED
from luvc_export.core.plan.merging import EARLIEST
from luvc_export.core.plan.request import EncoderRequest
from luvc_export.core.planning import recipe_of, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError

LLM = DecoderShape(36, 2048, 16, 2, 128, 11008, 151936, 32768)
#: The LLM of examples/glyph_deep.
DEEP = DecoderShape(8, 192, 6, 2, 32, 512, 746, 2048)
ENCODER = EncoderShape(32, 1280, 3420, 4, 4, (7, 15, 23, 31), True)


#: 32 x 32 units without a quarter of them, both axes alike.
MERGED = 28 * 27


@given(st.sampled_from(sorted(NAMED)), st.integers(1, 48), st.integers(1, 40), st.integers(1, 60))
def test_every_recipe_fits_every_depth_and_size(name: str, layers: int, rows: int, columns: int) -> None:
    plan = solve(flat_request(name), (rows, columns), replace(LLM, layers=layers), ENCODER)
    assert plan.schedule == name and plan.layers == layers


def test_no_name_is_the_default_which_merges_nothing_and_reads_every_token_first() -> None:
    plan = solve(flat_request(), (32, 32), LLM, ENCODER)
    assert plan == solve(flat_request(DEFAULT_PLAN), (32, 32), LLM, ENCODER)
    assert plan.encoder.merges == () and plan.encoder.prune is None and plan.llm.kv_only == tuple(range(14, 34))
    assert plan.keep == (1024, *[492] * 33, 0, 0) and plan.llm.turns == 2


@pytest.mark.parametrize(("llm", "tokens"), [(DEEP, 260), (LLM, 1024)], ids=["glyph_deep", "3B"])
def test_the_default_more_than_halves_prefill(llm: DecoderShape, tokens: int) -> None:
    plan = solve(flat_request(), (1, tokens), llm, ENCODER)
    full = sum(prefill_flops(llm, [tokens] * llm.layers, 64))
    assert full / sum(prefill_flops(llm, plan.keep, 64, plan.llm.last_layer, plan.llm.kv_only)) >= 2.2


def test_schedules_stay_what_they_were_and_all_else_merges_nothing_unless_told() -> None:
    for schedule in ("even", "thirds", "linear", "cosine", "luvc"):
        assert solve(flat_request(schedule), (32, 32), LLM, ENCODER).vision_tokens == MERGED
    for request in (flat_request(speedup=2.0), flat_request(kv_mib=20.0), flat_request([100] * 35 + [0])):
        assert solve(request, (32, 32), LLM, ENCODER).encoder.merges == ()
        assert solve(replace(request, encoder=EncoderRequest(0.75)), (32, 32), LLM, ENCODER).vision_tokens == MERGED


def test_luvc_is_what_the_paper_says() -> None:
    plan = solve(flat_request("luvc"), (32, 32), LLM, ENCODER)
    assert all(step.rows and step.columns for step in plan.encoder.merges), "merges along rows and columns"
    assert plan.keep[-1] == 0 and sorted(set(plan.keep), reverse=True) == [MERGED, MERGED // 2, MERGED // 4, 0]
    literal = solve(flat_request("luvc-literal"), (32, 32), LLM, ENCODER)
    assert (literal.llm.method.name, literal.llm.spectrum, literal.keep) == ("low", "1d", plan.keep)


def test_a_goal_is_solved_in_one_stage() -> None:
    plan = solve(flat_request(speedup=3.0), (32, 32), LLM, ENCODER)
    assert plan.schedule == "speedup 3" and plan.llm.method["rho"] == NAMED[SOLVED_AS].request.llm.method["rho"]
    assert plan.keep[0] == 1024 and len({*plan.keep[4:-1]}) == 1
    for last in ("kv_only", "full"):
        own = solve(flat_request(speedup=3.0, last_layer=last), (32, 32), LLM, ENCODER)  # type: ignore[arg-type]
        full = sum(prefill_flops(LLM, [1024] * 36, 64))
        assert own.keep[-1] > 0 and full / sum(prefill_flops(LLM, own.keep, 64, own.llm.last_layer)) >= 3
    with pytest.raises(PlanError, match="--speedup solves the budgets itself"):
        solve(flat_request("fast", speedup=2.0), (32, 32), LLM, ENCODER)


def test_a_name_with_a_precision_is_a_recipe_and_no_plan() -> None:
    assert {each.recipe for each in QUANTISED.values()} <= {*PICTURES} and not {*QUANTISED} & {*NAMED}
    with pytest.raises(PlanError, match=r"quick is safe with its encoder in int8[\s\S]*export MODEL --plan quick"):
        solve(flat_request("quick"), (32, 32), LLM, ENCODER)


def test_what_is_said_beside_a_name_goes_before_the_recipe() -> None:
    plan = solve(flat_request("staged", merge_keep=0.75, last_layer="full", rho=0.25), (32, 32), LLM, ENCODER)
    assert plan.vision_tokens == MERGED and plan.llm.last_layer == "full" and plan.llm.method["rho"] == 0.25
    assert solve(flat_request("lean", kv_only=(3,)), (32, 32), LLM, ENCODER).llm.kv_only == (3,)


def test_lean_is_safe_with_fewer_units_in_the_later_encoder() -> None:
    plans = [solve(flat_request(name), (32, 32), LLM, ENCODER) for name in ("safe", "lean", "leaner")]
    assert (
        plans[1].llm == plans[2].llm and plans[1].llm.last_layer == "kv_only" and min(plans[1].keep) == plans[0].keep[2]
    )
    assert [plan.encoder.prune and plan.encoder.prune.keep for plan in plans] == [None, 0.75, 0.5]


@given(st.sampled_from(sorted(NAMED)), st.integers(1, 48), st.integers(4, 40), st.integers(4, 60))
def test_a_plan_is_known_as_its_recipe(name: str, layers: int, rows: int, columns: int) -> None:
    llm = replace(LLM, layers=layers)
    assert recipe_of(solve(flat_request(name), (rows, columns), llm, ENCODER), llm) == name


@pytest.mark.parametrize(
    "changes", [{"rho": 0.25}, {"last_layer": "full"}, {"merge_keep": 0.9}, {"kv_only": (20,)}, {"axis": "channel"}]
)
def test_a_recipe_that_was_changed_is_no_more_the_one_that_was_measured(changes: dict[str, Any]) -> None:
    assert recipe_of(solve(flat_request("staged", **changes), (32, 32), LLM, ENCODER), LLM) is None


def test_a_plan_of_before_is_known_as_what_its_name_was() -> None:
    """Bundles of before hold `safe` as `staged` is now: figures beside it are those of that recipe."""
    before = replace(solve(flat_request("staged"), (32, 32), LLM, ENCODER), schedule="safe")
    assert recipe_of(before, LLM) == "staged"
    assert recipe_of(replace(before, schedule="lean"), LLM) is None


def test_recipes_for_clips_divide_a_clip_s_budget_alone() -> None:
    """Of a picture there is nothing to divide; what a user says of quotas goes before the recipe."""
    clip = solve(flat_request("dycoke", joint_images=8), (6, 6), DEEP, ENCODER)
    assert clip.sharing.quota == "dycoke" and clip.keep == (136,) * 8 and clip.llm.last_layer == "kv_only"
    assert solve(flat_request("dycoke"), (6, 6), DEEP, ENCODER).sharing.quota == "none"
    own = solve(flat_request("dycoke", joint_images=8, quota="uniform"), (6, 6), DEEP, ENCODER)
    assert own.sharing.quota == "uniform" and recipe_of(own, DEEP) is None
    for name in CLIPS:
        plan = solve(flat_request(name, joint_images=8), (6, 6), DEEP, ENCODER)
        assert recipe_of(plan, DEEP) == name


def test_clips_take_the_budgets_that_their_sources_say() -> None:
    shared = {name: solve(flat_request(name, joint_images=8), (6, 6), DEEP, ENCODER) for name in CLIPS}
    quarter = {name for name, plan in shared.items() if set(plan.keep[1:]) == {72}}
    assert quarter == {"film", "evs", "vidcom2", "holitom", "parvts"} and shared["parvts"].apart == 1
    assert shared["adsc"].keep == (288, 288, 144, 144, 72, 72, 36, 36)
    merging = shared["dymu"].encoder
    assert 0.3 < merging.tokens / merging.units < 0.36 and merging.size_bias and len(merging.merges) > 2


def test_lean_prunes_the_encoder_where_schedules_may_begin() -> None:
    """The table of recipes cannot name the constant it means."""
    prune = NAMED["lean"].request.encoder.prune
    assert prune is not None and prune.depth == Fraction(EARLIEST).limit_denominator()
    assert [*NAMED] == [*PICTURES, *CLIPS, *UNLISTED] and DEFAULT_PLAN in PICTURES


def test_plans_without_a_recipe_and_other_models_are_told_apart() -> None:
    assert recipe_of(solve(flat_request("even"), (32, 32), LLM, ENCODER), LLM) is None
    safe = solve(flat_request("safe"), (32, 32), LLM, ENCODER)
    assert recipe_of(replace(safe, schedule="lean"), LLM) is None
    assert recipe_of(safe, replace(LLM, layers=8)) is None
