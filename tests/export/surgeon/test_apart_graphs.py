"""Tokens kept apart, in caches of fixed capacity: each call computes what the traced graph, whose caches grow, does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from surgery_harness import INPLACE, Traced, cut, feeds, run

from luvc_export.calibration.quantise.cache_codes import store_codes
from luvc_export.core.shapes import DecoderShape
from luvc_export.core.target import TargetSpec
from luvc_export.export import families
from luvc_export.export.surgeon import cache_slots
from luvc_export.export.surgeon.passes import append_kv, inplace_kv

pytestmark = pytest.mark.slow(beside="export/surgeon/test_equal.py::test_one_pass")

APPEND = TargetSpec("append", "onnx", opset=24, topk_limit=None, kv="append")
TEXT, GROUPS = 24, 2
#: Images and text of the calls of a chat: slots of both images filled, and of one. Images come in the first call.
CHATS = (((2, 5), (0, 1), (0, 3)), ((1, 7), (0, 2), (0, 1)))
FORMS = {"inplace": (inplace_kv, INPLACE), "append": (append_kv, APPEND)}


@pytest.fixture(scope="module")
def coded(apart: Traced) -> onnx.ModelProto:
    """The decoder with caches in codes that grow."""
    (shape,) = {tuple(shapes(apart.decoder)[f"past_key_values.{layer}.key"]) for layer in range(apart.plan.layers)}
    heads = families.find("qwen2_5_vl", "test").tiny_config().text_config.num_attention_heads
    scales = {layer: np.full((shape[1], shape[3]), 0.02, np.float32) for layer in range(apart.plan.layers)}
    graph = ir.from_proto(apart.decoder)
    store_codes(graph.graph, DecoderShape(apart.plan.layers, 8, heads, shape[1], shape[3], 8, 8, 64), scales)
    return ir.to_proto(graph)


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}


def graphs(apart: Traced, coded: onnx.ModelProto, form: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Whose caches grow, and whose are of fixed capacity."""
    grown = apart.decoder if form == "inplace" else coded
    return grown, cut(grown, target=FORMS[form][1], text_capacity=TEXT, groups=GROUPS)


def empty(model: onnx.ModelProto, rows: int | None) -> dict[str, Any]:
    """Caches with nothing in them: of no rows, or of as many slots as the graph says (``rows`` None)."""
    held = {}
    for value in model.graph.input:
        if value.name.startswith("past_") and value.name not in ("past_text", "past_groups"):
            sizes = [1, *[d.dim_value for d in value.type.tensor_type.shape.dim][1:]]
            axis = 2 if len(sizes) == 4 else 1
            sizes[axis] = sizes[axis] if rows is None else rows
            held[value.name] = np.zeros(sizes, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return held


def present(name: str) -> str:
    return name.replace("past_key_values", "present").replace("past_states", "present_states")


def differences(grown: onnx.ModelProto, fixed: onnx.ModelProto, apart: Traced, calls: Sequence[Any]) -> Iterator[float]:
    """How far the logits of each call are apart, by the largest."""
    plan = apart.plan
    before, slots = empty(grown, 0), empty(fixed, None)
    images = text = 0
    for step, (groups, new) in enumerate(calls):
        inputs = feeds(apart.decoder, plan, (1, groups, new, images, text), seed=step)
        inputs = {name: value for name, value in inputs.items() if not name.startswith("past_")}
        counts = {"past_text": np.array([text]), "past_groups": np.array([images])}
        right = run(grown, {**inputs, **before})
        ours = run(fixed, {**inputs, **slots, **counts, "text_mask": np.arange(TEXT)[None] < text + new})
        yield float(np.abs(right["logits"] - ours["logits"]).max() / np.abs(right["logits"]).max())
        before = {name: right[present(name)] for name in before}
        for name, held in slots.items():
            rows, axis = ours[present(name)], 2 if held.ndim == 4 else 1
            if rows.shape == held.shape:
                slots[name] = rows
                continue
            start = held.shape[axis] - TEXT + text - groups * plan.keep[int(name.split(".")[1])]
            place = [slice(None)] * held.ndim
            place[axis] = slice(start, start + rows.shape[axis])
            held[tuple(place)] = rows
        images, text = images + groups, text + new


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("calls", CHATS, ids=["two", "one"])
def test_each_call_computes_what_the_traced_graph_does(
    apart: Traced, coded: onnx.ModelProto, form: str, calls: Sequence[Any]
) -> None:
    assert max(differences(*graphs(apart, coded, form), apart, calls)) <= 2e-5


@pytest.mark.parametrize("form", FORMS)
def test_sides_forgotten_show(
    apart: Traced, coded: onnx.ModelProto, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = cache_slots.without_sides
    monkeypatch.setattr(cache_slots, "without_sides", lambda mask: (honest(mask)[0], None))
    grown, fixed = graphs(apart, coded, form)
    assert max(differences(grown, fixed, apart, CHATS[0])) > 1e-3
