from __future__ import annotations

import json
import re

import pytest
from flat_plans import flat_plan
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.plan import SCHEMA_VERSION, MergePass, Method, Plan
from luvc_export.errors import PlanError


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    grid = (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    rows, columns = grid
    merges = []
    block = 0
    for _ in range(draw(st.integers(0, 3))):
        block += draw(st.integers(0, 4))
        merge = MergePass(block, draw(st.integers(0, rows // 2)), draw(st.integers(0, columns // 2)))
        rows, columns = rows - merge.rows, columns - merge.columns
        merges.append(merge)
    keep = sorted(draw(st.lists(st.integers(0, rows * columns), min_size=1, max_size=12)), reverse=True)
    last = draw(st.sampled_from(["drop", "kv_only", "full"]))
    if last == "drop":
        keep[-1] = 0
    return flat_plan(grid, tuple(keep), tuple(merges), last_layer=last, rho=draw(st.floats(0.01, 1)))


@given(plans())
def test_json_round_trip_gives_an_equal_plan(plan: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(plans())
def test_prunes_are_exactly_where_the_span_shrinks(plan: Plan) -> None:
    count = plan.vision_tokens
    seen = {layer: (before, kept) for layer, before, kept in plan.prunes}
    for layer, keep in enumerate(plan.keep):
        assert seen.get(layer) == ((count, keep) if keep < count else None)
        count = keep


def test_every_problem_is_in_one_error() -> None:
    with pytest.raises(PlanError) as error:
        flat_plan((4, 4), (16, 20, 30, 3), score="low")
    text = str(error.value)
    assert "keep[1]: got 20, expected 0 to 16" in text
    assert "keep[2]: grows from 20 to 30" in text
    assert "last_layer 'drop' lets none in" in text


def test_switches_and_merges_are_checked_together() -> None:
    with pytest.raises(PlanError) as error:
        flat_plan((4, 5), (4, 0), (MergePass(3, 3, 0), MergePass(1, 0, 2)), axis="time")
    text = str(error.value)
    assert "axis: got 'time', expected one of token, channel" in text
    assert "merges[0]: 3 rows of 4: a pass removes 0 to 2" in text
    assert "merges[1]: block 1 comes after block 3" in text


def test_frozen_layers_are_checked_with_the_budgets() -> None:
    with pytest.raises(PlanError) as error:
        flat_plan((4, 4), (16, 8, 0, 0), kv_only=(2, 0, 3, 9))
    text = str(error.value)
    assert "kv_only: got [2, 0, 3, 9], expected layers in ascending order" in text
    assert "kv_only[0]: no visual token enters layer 2" in text
    assert "kv_only[2]: layer 3 is the last one, which last_layer 'kv_only' says" in text
    assert "kv_only[3]: got layer 9, expected 0 to 2: there are 4 layers" in text
    plan = flat_plan((4, 4), (16, 8, 4), kv_only=(1,), last_layer="kv_only")
    assert plan.llm.frozen == {1, 2} and Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert not {"sampled", "turns"} & {*plan.to_json()["llm"]}


@pytest.mark.parametrize(("field", "least"), [("sampled", 1), ("turns", 2)])
def test_tokens_that_work_in_frozen_layers_are_fewer_than_their_budgets(field: str, least: int) -> None:
    plan = flat_plan((4, 4), (16, 8, 0), kv_only=(1,)).changed(**{field: 7})
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan and getattr(plan.llm.unchosen(), field) == 7
    for count, kv_only, expected in (
        (8, (1,), "kv_only[0]: 8 tokens of layer 1, expected more than 8: leave it out"),
        (7, (), f"{field}: got 7, expected 0, or {least} or more with layers kv_only and without an aggregate"),
        (least - 1 or -1, (1,), f"{field}: got {least - 1 or -1}, expected 0, or {least} or more"),
    ):
        with pytest.raises(PlanError, match=re.escape(expected)):
            flat_plan((4, 4), (16, 8, 0), kv_only=kv_only).changed(**{field: count})
    data = plan.to_json()
    with pytest.raises(PlanError, match=rf"expected a whole number of at most[\s\S]*plan.llm.{field}\n.*True"):
        Plan.from_json(data | {"llm": data["llm"] | {field: True}})
    with pytest.raises(PlanError, match="merging, aggregates, samples, turns have none"):
        flat_plan((4, 4), (16, 8, 0), kv_only=(1,)).changed(**{field: 7}, apart=True)


def test_tokens_are_sampled_or_take_turns() -> None:
    with pytest.raises(PlanError, match="turns: tokens that are sampled work in every layer"):
        flat_plan((4, 4), (16, 8, 0), kv_only=(1,)).changed(sampled=3, turns=2)


def test_json_has_the_parts_and_an_aggregate_only_where_there_is_one() -> None:
    data = flat_plan((2, 2), (4, 0)).to_json()
    assert set(data) == {"schema_version", "schedule", "topk_limit", "encoder", "llm", "sharing"}
    assert data["llm"]["method"]["settings"] == {"rho": 0.25} and "aggregate" not in data["llm"]
    assert flat_plan((4, 4), (16, 8, 0), aggregate=True).to_json()["llm"]["aggregate"] is True


def test_fields_change_by_name_in_whatever_part_they_are() -> None:
    plan = flat_plan((4, 4), (16, 8, 0))
    other = plan.changed(keep=(9, 8, 0), bucket=9, spectrum="1d", schedule="mine")
    assert (other.keep, other.encoder.bucket, other.llm.spectrum, other.schedule) == ((9, 8, 0), 9, "1d", "mine")
    assert other.changed(keep=(16, 8, 0), bucket=0, spectrum="2d", schedule="list") == plan
    with pytest.raises(TypeError, match="kepe"):
        plan.changed(kepe=(16, 8, 0))


def test_an_export_says_what_core_must_know_of_a_method() -> None:
    """Without facts the cautious hold; with them the name says nothing."""
    plan = flat_plan((4, 4), (16, 8, 0), bucket=0)
    unknown = plan.changed(method=Method("of another package"))
    assert unknown.reads_text and not unknown.changed(keep=(16, 16, 0)).reads_text
    exported = plan.changed(method=Method("of another package", (("width", 2.5),), reads_text=False))
    assert not exported.reads_text and exported.llm.method["width"] == 2.5
    assert Plan.from_json(json.loads(json.dumps(exported.to_json()))) == exported
    placed = Method("placed", needs_positions=True)
    with pytest.raises(PlanError, match="needs the whole grid, and the first prune leaves gaps"):
        flat_plan((4, 4), (16, 8, 4, 0)).changed(method=placed)
    assert flat_plan((4, 4), (16, 8, 8, 0)).changed(method=placed).llm.reads_grid
    with pytest.raises(PlanError, match=r"llm\.method: 'placed' needs the grid, of which a bucket has gaps"):
        flat_plan((4, 4), (9, 8, 8, 0), bucket=9, spectrum="1d").changed(method=placed)


def test_aggregates_and_quotas_are_checked_with_the_budgets() -> None:
    with pytest.raises(PlanError) as error:
        flat_plan((4, 4), (16, 8, 1, 0), aggregate=True, quota="v-cast")
    text = str(error.value)
    assert "quota: 'v-cast' divides a budget among images that share it" in text
    with pytest.raises(PlanError) as error:
        flat_plan((4, 4), (32, 4, 3, 1, 0), joint_images=5, aggregate=True, quota="uniform")
    text = str(error.value)
    assert "keep[1]: 3 chosen tokens for 5 images: a quota gives each at least 1" in text
    assert "keep[2]: 2 chosen tokens for 5 images" in text
    assert "keep[3]: a budget of 1 would be the aggregate alone: at least 2, or 0" in text
    for change, refusal in (
        ({"keep": (16, 0), "aggregate": True}, "aggregate: no prune leaves a row for it"),
        ({"aggregate": 1}, "aggregate: got 1, expected true or false"),
        ({"reducer": "merge", "aggregate": True}, "aggregate: merging in the LLM drops nothing"),
        ({"quota": "even"}, "quota: got 'even', expected one of none, uniform, spread, v-cast"),
        ({"keep": (64, 0), "joint_images": 4, "quota": "uniform"}, "quota: 'uniform' divides what a prune keeps"),
    ):
        with pytest.raises(PlanError, match=refusal):
            flat_plan(**{"grid": (4, 4), "keep": (16, 8, 0), **change})  # type: ignore[arg-type]
    for change, refusal in (
        ({"quota": "v-cast"}, "quota: 'v-cast' follows a clip through time, which tiles have not: uniform or spread"),
        ({"joint_images": 3}, "images: got 3; 2x2 tiles are 4, 5 with the whole picture"),
        ({"joint_tiles": (1, 1)}, "tiles: got .1, 1., expected rows and columns of at least two tiles"),
        ({"joint_tiles": (2, 2, 1)}, "tiles: got .2, 2, 1., expected rows and columns"),
        ({"keep": (32, 3, 0), "quota": "spread"}, "3 chosen tokens for 4 images: a quota gives each at least 1"),
    ):
        fields = {"grid": (4, 4), "keep": (32, 8, 0), "joint_images": 4, "joint_tiles": (2, 2), **change}
        with pytest.raises(PlanError, match=refusal):
            flat_plan(**fields)  # type: ignore[arg-type]
    tiled = flat_plan((4, 4), (32, 8, 0), joint_images=5, joint_tiles=(2, 2), quota="spread")
    assert Plan.from_json(tiled.to_json()) == tiled
    for bad in ("2x2", [2, True], [2, 2**40], [2, "2"], 4):
        with pytest.raises(PlanError):
            Plan.from_json(tiled.to_json() | {"sharing": {"images": 5, "tiles": bad}})
    plan = flat_plan((4, 4), (64, 20, 7, 0), joint_images=4, aggregate=True, quota="v-cast")
    assert plan.chooses == ((1, 64, 19), (2, 19, 6)) and plan.cache_rows(2, 5) == (133, 45, 19, 5)
    assert plan.aggregated_layers == (1, 2)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_topk_limit_of_the_target() -> None:
    grid = (100, 100)
    flat_plan(grid, (10_000, 3_840, 0))
    with pytest.raises(PlanError, match="selecting 3841 of 10000 needs TopK K <= 3840"):
        flat_plan(grid, (10_000, 3_841, 0))
    assert flat_plan(grid, (10_000, 9_000, 0), topk_limit=None).keep[1] == 9_000


def test_newer_schema_names_field_and_fix() -> None:
    data = flat_plan((2, 2), (4, 0)).to_json() | {"schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(PlanError) as error:
        Plan.from_json(data, "p.json")
    assert "p.json.schema_version" in str(error.value) and "update luvc-export" in str(error.value)


MALFORMED = [
    ({"keep": [4, "x"]}, r"expected a whole number(.|\n)*llm.keep\[1\]"),
    ({"keep": [4, 0.5]}, "expected a whole number"),
    ({"grid": 3}, "expected a list"),
    ({"merges": {}}, "expected a list"),
    ({"merges": [{"block": 0}]}, r"missing \['columns', 'rows'\]"),
    ({"merges": [3]}, "a JSON object is expected"),
    ({"kv_only": 1}, "expected a list"),
    ({"kv_only": ["x"]}, "expected a whole number"),
    ({"kv_only": [0.5]}, "expected a whole number"),
    ({"bucket": 2**40}, "expected a whole number of at most"),
    ({"grid": [9000, 1]}, "larger than any model's"),
    ({"size_bias": 1}, "size_bias: got 1, expected true or false"),
    ({"topk_limit": "many"}, "expected a whole number"),
    ({"colour": 1}, r"unknown \['colour'\]"),
]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        *MALFORMED,
        ({"joint_tiles": 2}, "expected a list"),
        ({"score": 7}, "a score's name is a text"),
        ({"rho": []}, "no value of a setting"),
    ],
)
def test_malformed_json_of_schema_1_is_a_plan_error(change: dict[str, object], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        Plan.from_json({"grid": [2, 2], "keep": [4, 0], **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        *MALFORMED,
        ({"tiles": 2}, "expected a list"),
        ({"method": 3}, "a JSON object is expected"),
        ({"method": {"name": "low", "settings": [1]}}, "a method's settings are a JSON object"),
        ({"method": {"name": "low", "settings": {"rho": 1e30}}}, "the number is too large"),
        ({"method": {"name": "low", "reads_text": 1}}, "llm.method.reads_text: got 1, expected true or false"),
        ({"method": {"name": "low", "colour": 1}}, r"unknown \['colour'\]"),
    ],
)
def test_malformed_json_is_a_plan_error(change: dict[str, object], text: str) -> None:
    data = flat_plan((2, 2), (4, 0)).to_json()
    (name,) = change
    part = next((part for part in ("encoder", "llm", "sharing") if name in data[part]), None)
    whole = data | change if part is None else data | {part: data[part] | change}
    with pytest.raises(PlanError, match=text):
        Plan.from_json(whole)


@pytest.mark.parametrize("part", ["encoder", "llm"])
def test_missing_field_is_named(part: str) -> None:
    data = flat_plan((2, 2), (4, 0)).to_json()
    name = {"encoder": "grid", "llm": "keep"}[part]
    with pytest.raises(PlanError, match=rf"missing \['{name}'\]"):
        Plan.from_json(data | {part: {each: value for each, value in data[part].items() if each != name}})
    del data[part]
    with pytest.raises(PlanError, match=rf"missing \['{part}'\]"):
        Plan.from_json(data)
    with pytest.raises(PlanError, match=r"missing \['keep'\]"):
        Plan.from_json({"grid": [2, 2]})


def test_plans_of_schema_1_have_their_rounds_and_facts() -> None:
    old = {"grid": [4, 4], "keep": [16, 8, 0], "score": "scope", "rho": 0.5, "steps": 2, "seed": 3}
    plan = Plan.from_json(old)
    assert dict(plan.llm.method.settings) == {"rho": 0.5, "rounds": "equal", "steps": 2}
    assert not plan.reads_text and plan.llm.method.reads_spectrum
    assert Plan.from_json({**old, "score": "fastv"}).reads_text
    assert Plan.from_json({**old, "score": "of another package"}).reads_text
