"""Decoders finished for CPUs: caches in two inputs, query heads as rows, a head of its own, slots for adapters gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from surgery_harness import CASES, RTX, Arrays, Traced, cut, edited, feeds, fired, operators, run, small
from tolerance import TOLERANCES

from luvc_export.core import graph_io
from luvc_export.core.target import FINISHED, ORT_CPU, TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import drop_lora_slots, group_query_heads, split_head, split_kv_cache

STEPS = FINISHED["cpu"]["steps"]
JOINED = replace(STEPS, split_kv_cache=("joined",))
GROUPED, ALONE = FINISHED["intel-cpu"]["steps"], FINISHED["intel-cpu"]["head"]
#: Of a cache's rows, how many stand; the others are its newest.
STANDING = 5
#: Three tokens behind a picture and nine tokens of two rows, as ``CASES``; the second row is padded.
STEP = (2, 0, 3, 1, 9)


@pytest.fixture(scope="module")
def exported(traced: Traced) -> onnx.ModelProto:
    """The decoder as bundles hold it: Attention over packed heads with the cache inside."""
    return cut(traced.decoder, target=ORT_CPU)


def in_parts(model: onnx.ModelProto, arrays: Arrays) -> Arrays:
    """Feeds of the exported decoder as one with split caches takes them."""
    named = {one.name for one in model.graph.input}
    parts = dict(arrays)
    for name in [name for name in arrays if name + graph_io.NEWEST in named]:
        parts[name], parts[name + graph_io.NEWEST] = np.split(arrays[name], [STANDING], axis=2)
    return parts


def furthest(whole: onnx.ModelProto, finished: onnx.ModelProto, traced: Traced, sizes: tuple[int, ...] = STEP) -> float:
    """Largest difference relative to the largest value; infinite where shapes differ or values are not finite.

    A new row of a split cache is compared with the same row of the whole one.
    """
    arrays, worst = feeds(traced.decoder, traced.plan, sizes), 0.0  # type: ignore[arg-type]
    parts, before = in_parts(finished, arrays), run(whole, arrays)
    for name, value in run(finished, parts).items():
        wanted = before.get(name, value)
        past = name.replace("present", "past_key_values")
        if past + graph_io.NEWEST in parts:
            wanted = wanted[:, :, parts[past].shape[2] :]
        if wanted.shape != value.shape or not np.isfinite(value).all():
            return float("inf")
        if value.size:
            worst = max(worst, float(np.abs(wanted - value).max() / max(1.0, np.abs(wanted).max())))
    return worst


def moved(whole: onnx.ModelProto, make: Callable[[], onnx.ModelProto], traced: Traced) -> bool:
    """Whether a sabotaged pass was noticed: by its own check, by ONNX Runtime, or by what the graph computes."""
    try:
        return furthest(whole, make(), traced) > 0.01
    except Exception:
        return True


@pytest.mark.parametrize(("target", "tolerance"), [(STEPS, "fp32"), (JOINED, "exact")], ids=["apart", "joined"])
def test_a_cache_in_two_inputs_gives_the_same_logits_and_new_rows(
    traced: Traced, exported: onnx.ModelProto, target: TargetSpec, tolerance: str
) -> None:
    split = cut(exported, split_kv_cache, target=target)
    caches = [one.name for one in exported.graph.input if one.name.startswith("past_key_values")]
    newest = [one.name for one in split.graph.input if one.name.endswith(graph_io.NEWEST)]
    assert sorted(newest) == sorted(name + graph_io.NEWEST for name in caches)
    assert operators(split, "Attention") == (0 if target is STEPS else operators(exported, "Attention"))
    assert furthest(exported, split, traced) <= TOLERANCES[tolerance].largest


def test_split_caches_are_left_where_they_are_not_wanted(traced: Traced, exported: onnx.ModelProto) -> None:
    assert fired(exported, split_kv_cache, target=ORT_CPU) == (0, "the target's caches are one input each")
    assert fired(traced.vision, split_kv_cache, target=STEPS) == (0, "the vision graph has no cache")
    split = cut(exported, split_kv_cache, target=STEPS)
    assert fired(split, split_kv_cache, target=STEPS) == (0, "done already")


def test_an_attention_with_a_softcap_keeps_its_cache_inside_the_next_form(
    traced: Traced, exported: onnx.ModelProto
) -> None:
    """Two products know no cap: with ``apart`` alone the cache stays one input, with ``joined`` behind it is split."""

    def capped(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Attention":
                kept = [one for one in node.attribute if one.name != "softcap"]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute("softcap", 5.0)])

    model = edited(exported, capped)
    assert fired(model, split_kv_cache, target=STEPS)[0] == 0
    split = cut(model, split_kv_cache, target=replace(STEPS, split_kv_cache=("apart", "joined")))
    assert operators(split, "Attention") == operators(model, "Attention")
    assert furthest(model, split, traced) == 0


@pytest.mark.parametrize("fault", ["least", "order", "sizes"])
def test_a_wrong_split_is_noticed(
    traced: Traced, exported: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Sabotage: masked rows are seen, parts trade places, whoever asks for sizes hears of one part."""
    honest = split_kv_cache._two_products
    turned = lambda surgery, node, parts, masks: honest(surgery, node, parts[::-1], masks)  # noqa: E731
    name, other = {
        "least": ("_LEAST", np.float32(0)),
        "order": ("_two_products", turned),
        "sizes": ("_both_sizes", lambda *_: None),
    }[fault]
    monkeypatch.setattr(split_kv_cache, name, other)
    assert moved(exported, lambda: cut(exported, split_kv_cache, target=STEPS), traced)


def test_newest_rows_that_nobody_gives_back_are_refused(
    exported: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = split_kv_cache._split

    def swapped(surgery: Any, join: gs.Node) -> Any:
        past, after = honest(surgery, join)
        after.inputs[0].inputs = after.inputs[0].inputs[::-1]
        return past, after

    monkeypatch.setattr(split_kv_cache, "_split", swapped)
    with pytest.raises(CheckFailed, match=r"newest rows are not given back with the call's"):
        cut(exported, split_kv_cache, target=JOINED)


@pytest.mark.parametrize("sizes", [STEP, CASES["two"], CASES["prefill"]], ids=["step", "two", "prompt"])
def test_query_heads_are_rows_of_their_cached_head(
    traced: Traced, exported: onnx.ModelProto, sizes: tuple[int, ...]
) -> None:
    """Of several tokens; a step of one has one row of masks, which OpenVINO alone takes."""
    target = replace(GROUPED, split_kv_cache=("joined",))
    split = cut(exported, split_kv_cache, target=target)
    count = operators(exported, "Attention")
    assert fired(split, group_query_heads, target=target)[0] == count
    grouped = cut(split, group_query_heads, target=target)
    assert operators(grouped, "Attention") == count
    assert furthest(exported, grouped, traced, sizes) <= TOLERANCES["fp32"].largest


@pytest.mark.parametrize(("second", "sizes"), [("T", 1), ("U", 2)], ids=["as many rows", "other rows"])
def test_layers_that_bring_as_many_rows_share_their_sizes(second: str, sizes: int) -> None:
    model = small(f"""g (int64[1, T] input_ids, float[1, 4, T, 2] q, float[1, 4, {second}, 2] r, float[1, 2, P, 2] past,
        float[1, 2, T, 2] now, bool[1, 1, T, S] seen, bool[1, 1, {second}, S] also) => (float[1, 4, T, 2] y,
        float[1, 4, {second}, 2] z) <float[1, 2, S, 2] k> {{ k = Concat <axis = 2> (past, now)
        y = Attention (q, k, k, seen)  z = Attention (r, k, k, also) }}""")
    grouped = cut(model, group_query_heads, target=GROUPED)
    assert operators(grouped, "Attention") == 2 and operators(grouped, "LessOrEqual") == sizes
    for rows in (3, graph_io.STEP + 1):
        random, masks = np.random.default_rng(0), np.tri(rows, rows + 5, 5, dtype=bool)[None, None]
        shapes = {"q": (4, rows), "r": (4, rows), "past": (2, 5), "now": (2, rows)}
        arrays = {name: random.normal(size=(1, *shape, 2)).astype(np.float32) for name, shape in shapes.items()}
        arrays |= {"input_ids": np.zeros((1, rows), np.int64), "seen": masks, "also": masks}
        for name, value in run(model, arrays).items():
            np.testing.assert_allclose(run(grouped, arrays)[name], value, atol=1e-5)


def test_query_heads_are_left_where_no_cache_is_shared(traced: Traced, exported: onnx.ModelProto) -> None:
    assert fired(exported, group_query_heads, target=RTX)[1] == "the target's Attention reads a shared head once"
    assert fired(traced.vision, group_query_heads, target=GROUPED) == (0, "the vision graph has no cache")
    assert fired(exported, group_query_heads, target=GROUPED) == (0, "no query heads share a cached head")


def test_a_wrong_layout_of_query_heads_is_noticed(
    traced: Traced, exported: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: masks are every head's first row's; nothing is grouped, and it is said to be."""
    target = replace(GROUPED, split_kv_cache=("joined",))
    split, honest = cut(exported, split_kv_cache, target=target), group_query_heads._group
    with monkeypatch.context() as patch:

        def first_row(surgery: Any, node: gs.Node, known: dict[Any, Any]) -> None:
            mask = node.inputs[3]
            node.inputs[3] = surgery.emit("And", [mask, surgery.emit("Slice", [mask, [0], [1], [2]])[0]], like=[mask])[
                0
            ]
            honest(surgery, node, known)

        patch.setattr(group_query_heads, "_group", first_row)
        assert moved(exported, lambda: cut(split, group_query_heads, target=target), traced)
    monkeypatch.setattr(group_query_heads, "_group", lambda surgery, node, known: None)
    with pytest.raises(CheckFailed, match="query heads still share a cached head"):
        cut(split, group_query_heads, target=target)


def test_a_head_alone_makes_the_logits_of_rows_that_the_decoder_gives(
    traced: Traced, exported: onnx.ModelProto
) -> None:
    arrays = feeds(traced.decoder, traced.plan, CASES["two"])
    giving, head = (cut(exported, split_head, target=target) for target in (GROUPED, ALONE))
    outputs = run(giving, arrays)
    rows, logits = outputs[graph_io.HEAD_ROWS], outputs[graph_io.LOGITS]
    np.testing.assert_array_equal(logits, run(exported, arrays)[graph_io.LOGITS])
    outputs = run(head, {graph_io.HEAD_ROWS: rows})
    assert [*outputs] == [graph_io.LOGITS]
    np.testing.assert_array_equal(outputs[graph_io.LOGITS].reshape(logits.shape), logits)
    turned = run(head, {graph_io.HEAD_ROWS: rows[:, ::-1].copy()})[graph_io.LOGITS]
    assert np.abs(turned.reshape(logits.shape) - logits).max() > 0.01, "rows count"
    assert fired(giving, split_head, target=GROUPED) == (0, "done already")
    assert fired(exported, split_head, target=STEPS) == (0, "the head stays in the decoder")


def test_a_head_that_reads_more_than_chosen_rows_stays(exported: onnx.ModelProto) -> None:
    def sized(model: onnx.ModelProto) -> None:
        """Logits with a term of the sequence's length."""
        graph, last = model.graph, next(node for node in model.graph.node if graph_io.LOGITS in node.output)
        last.output[[*last.output].index(graph_io.LOGITS)] = "without"
        graph.node.append(helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2))
        graph.node.append(helper.make_node("Cast", ["length"], ["many"], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node("Add", ["without", "many"], [graph_io.LOGITS]))

    reason = "logits are made of more than rows that were chosen"
    assert fired(edited(exported, sized), split_head, target=ALONE) == (0, reason)


def test_a_head_without_its_rows_is_refused(exported: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = split_head.apply

    def with_another(surgery: Any) -> int:
        count = honest(surgery)
        surgery.graph.inputs.append(gs.Variable("other", np.dtype(np.float32), [1]))
        return count

    monkeypatch.setattr(split_head, "apply", with_another)
    with pytest.raises(CheckFailed, match="a head is not apart"):
        cut(exported, split_head, target=ALONE)


def slotted(add: str = "Add", last: str = "Identity(total)") -> onnx.ModelProto:
    """A product with a slot beside it, whose term ``add`` joins to it."""
    model = small(
        f"""g (float[1, n, 4] x, float[4, r] a, float[r, 4] b) => (float[1, n, 4] logits)
        <float[4, 4] w = {{{", ".join(str(number) for number in range(16))}}}> {{
            product = MatMul(x, w)
            narrow = MatMul(x, a)
            term = MatMul(narrow, b)
            total = {add}(product, term)
            logits = {last}
        }}"""
    )
    names = {"a": "lora.q.a", "b": "lora.q.b"}
    for one in model.graph.input:
        one.name = names.get(one.name, one.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


BARE = replace(STEPS, lora_slots=False)


def test_slots_for_adapters_go_and_the_product_stays() -> None:
    model, x = slotted(), np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    bare = cut(model, drop_lora_slots, target=BARE)
    assert [one.name for one in bare.graph.input] == ["x"] and operators(bare, "MatMul") == 1
    none = {"lora.q.a": np.zeros((4, 0), np.float32), "lora.q.b": np.zeros((0, 4), np.float32)}
    np.testing.assert_array_equal(run(bare, {"x": x})["logits"], run(model, {"x": x, **none})["logits"])


def test_slots_stay_where_adapters_are_taken_or_read_otherwise() -> None:
    assert fired(slotted(), drop_lora_slots, target=STEPS) == (0, "the target's graphs take adapters")
    assert fired(cut(slotted(), drop_lora_slots, target=BARE), drop_lora_slots, target=BARE)[1] == (
        "there are no slots for adapters"
    )
    for model, reason in (
        (slotted("Mul"), "a slot is read by Mul"),
        (slotted(last="Add(total, term)"), "a slot is read by Add"),
    ):
        assert fired(model, drop_lora_slots, target=BARE) == (0, reason)
        assert len(cut(model, drop_lora_slots, target=BARE).graph.input) == 3


def test_a_slot_that_is_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = drop_lora_slots._slots
    monkeypatch.setattr(drop_lora_slots, "_slots", lambda surgery: honest(surgery)[:1])
    with pytest.raises(CheckFailed, match="a slot for adapters is left"):
        cut(slotted(), drop_lora_slots, target=BARE)
