"""``striped``: budgets and layers that carry, of any depth, as a user types them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from flat_plans import flat_request
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.named_plans import NAMED
from luvc_export.core.plan import LastLayer, Plan
from luvc_export.core.plan.cost import cost
from luvc_export.core.plan.stripes import Stripes, read
from luvc_export.core.planning import solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError, UsageError

LLM = DecoderShape(layers=36, hidden=2048, heads=16, kv_heads=2, head_dim=128, intermediate=11008, vocab=9, context=999)
VISION = EncoderShape(blocks=32, hidden=1280, intermediate=3420, unit=4, window=4, full_attention=(7, 15, 23, 31))
LASTS: tuple[LastLayer, ...] = ("drop", "kv_only", "full")
SHARES = st.fractions(0, 1, max_denominator=40)


@st.composite
def stripes(draw: st.DrawFn) -> Stripes:
    whole, gone = sorted((draw(SHARES), draw(SHARES)))
    share = draw(st.floats(0.01, 1.0).map(lambda number: round(number, 3)))
    return Stripes(whole, share, draw(st.integers(0, 9)), draw(st.integers(0, 9)), gone, draw(SHARES))


@given(
    stripes(), st.integers(1, 80), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["drop", "kv_only", "full"])
)
def test_any_stripes_of_any_depth_are_a_valid_plan(
    shape: Stripes, layers: int, rows: int, columns: int, last: str
) -> None:
    shape = shape if last == "drop" else replace(shape, gone=Fraction(1))
    plan = solve(
        flat_request("striped", stripes=shape, last_layer=last), (rows, columns), replace(LLM, layers=layers), VISION
    )
    assert plan.schedule == "striped" and plan.encoder.merges == ()
    assert Plan.from_json(plan.to_json()) == plan
    tokens, keep = rows * columns, plan.keep
    assert keep[0] == tokens or layers == 1
    assert set(keep) <= {tokens, max(1, round(shape.share * tokens)), 0}
    assert all(keep[layer] for layer in plan.llm.kv_only)
    assert last != "drop" or keep[-1] == 0


@given(stripes(), st.integers(2, 80))
def test_the_layers_that_work_are_those_said(shape: Stripes, layers: int) -> None:
    keep = shape.keep(layers, 1000)
    cut, gone = max(1, round(shape.whole * layers)), max(1, round(shape.gone * layers))
    assert sum(count > 0 for count in keep) == min(layers - 1, max(cut, gone))
    after = max(cut + shape.first, round(shape.works * layers))
    between = [layer for layer in range(cut, min(gone, layers - 1)) if layer not in shape.carrying(layers)]
    assert between[: after - cut] == list(range(cut, min(gone, layers - 1)))[: after - cut]
    later = [layer for layer in between if layer >= after]
    steps = {b - a for a, b in zip([after - 1, *later], later, strict=False)}
    assert steps <= {shape.every}


@given(stripes())
def test_what_is_typed_is_what_is_read(shape: Stripes) -> None:
    assert read(str(shape)) == shape


def test_the_default_is_the_plan_that_was_measured() -> None:
    """30 layers, 108 tokens: one whole, then 52 to layer 28; all work to layer 12, in turns behind it."""
    keep, carrying = Stripes().keep(30, 108), Stripes().carrying(30)
    assert keep == (108, *[52] * 27, 0, 0)
    assert carrying == tuple(range(12, 28))
    own, default = (solve(flat_request(name), (9, 12), LLM, VISION) for name in ("striped", "safe"))
    assert NAMED["safe"].request.llm.stripes == Stripes() and replace(own, schedule="safe") == default


def test_what_the_last_layer_reads_stays_until_it() -> None:
    """A vector is the last row's: with its keys and values there, no visual token goes before the last layer."""
    plan = solve(flat_request("safe", last_layer="kv_only"), (9, 12), LLM, VISION)
    assert plan.keep == (108, *[52] * 35) and max(plan.llm.kv_only) == 34


def test_the_default_is_worth_a_quarter_more_than_one_stage() -> None:
    """2.5 times fewer FLOPs were asked for at 576 tokens of a 3B's shape."""
    spent = {
        name: cost(solve(flat_request(name), (24, 24), LLM, VISION), LLM, 64).flops
        for name in ("none", "staged", "safe")
    }
    assert spent["none"] / spent["staged"] == pytest.approx(1.89, abs=0.25)
    assert spent["none"] / spent["safe"] > 2.5


def test_layers_that_carry_are_those_with_more_tokens_than_turns() -> None:
    """And turns of a recipe are taken back where no layer is left; a number that a user says is refused there."""
    shape = Stripes(every=2)
    for tokens, typed, carrying, turns in (
        (24, 2, 10, 2),
        (24, 9, 10, 9),
        (4, 0, 10, 0),
        (24, None, 10, 2),
        (1, None, 0, 0),
    ):
        plan = solve(flat_request("striped", stripes=shape, turns=typed), (tokens, tokens), LLM, VISION)
        assert len(plan.llm.kv_only) == carrying and plan.llm.turns == turns
    for name, turns in (("striped", 9), ("striped", 1), ("staged", 2), ((16, 8, 0), 2)):
        with pytest.raises(PlanError, match=r"carry keys and values alone[\s\S]*--turns[\s\S]*with --kv-only LAYERS"):
            solve(flat_request(name, turns=turns), (4, 4), LLM, VISION)
    still, whole, half = (
        cost(
            solve(flat_request("striped", stripes=replace(shape, every=every), turns=turns), (24, 24), LLM, VISION), LLM
        )
        for every, turns in ((2, 0), (1, 0), (2, 2))
    )
    assert half.flops == pytest.approx((still.flops + whole.flops) / 2, rel=0.02)


def test_parts_are_left_out_and_fractions_are_numbers() -> None:
    assert read("share=1/4, every=0") == Stripes(share=0.25, every=0)
    assert read("gone=0.9") == Stripes(gone=Fraction(9, 10))
    assert read(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shore=1", "stripes have no such part[\\s\\S]*shore[\\s\\S]*did you mean 'share'"),
        ("share=2/0", "cannot read share[\\s\\S]*2/0[\\s\\S]*a share such as 0.42 or 1/8"),
        ("share=0.3,share=0.4", "share is said twice[\\s\\S]*share=0.3,share=0.4"),
        ("first=1.5", "cannot read first[\\s\\S]*1.5[\\s\\S]*a whole number"),
        ("", "stripes have no such part"),
        ("works=3/2", "no such stripes[\\s\\S]*works=3/2 is not in 0 to 1"),
        ("share=0", "no such stripes[\\s\\S]*share=0.0 is not more than 0 and at most 1"),
        ("whole=1/2,gone=1/4", "gone=1/4 is not from whole to 1[\\s\\S]*--stripes whole=1/30,share=0.48"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        read(text)


def test_other_plans_have_no_stripes() -> None:
    for name in ("safe", "thirds", "none", [36] * 35 + [0]):
        with pytest.raises(PlanError, match=r"this plan has no stripes[\s\S]*--stripes[\s\S]*--plan striped"):
            solve(flat_request(name, stripes=Stripes()), (6, 6), LLM, VISION)
    with pytest.raises(PlanError, match=r"not gone before it[\s\S]*gone=1/2, --last-layer full"):
        solve(flat_request("striped", stripes=Stripes(gone=Fraction(1, 2)), last_layer="full"), (6, 6), LLM, VISION)
    with pytest.raises(PlanError, match="did you mean 'striped'"):
        solve(flat_request("stripped"), (6, 6), LLM, VISION)


def test_layers_without_keys_work_and_layers_that_share_caches_compute_none() -> None:
    mixed = replace(LLM, layers=12, shared=4)
    plan = solve(flat_request("striped"), (6, 6), mixed, VISION)
    assert plan.keep[8:] == (0,) * 4 and max(plan.llm.kv_only) < 8


def test_figures_of_recipes_are_theirs_still() -> None:
    assert NAMED["staged"].key == "a64b70b9c3b501b9"
