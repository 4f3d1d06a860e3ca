"""Aggregates and quotas in the graphs: what torch makes, in every dialect, cache form, batch and decode step."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from flat_plans import replan
from surgery_harness import CASES, INLINED, INPLACE, PLUGINS, RTX, TRT103, Traced, cut, edited, feeds, fired, run

from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.export.surgeon.passes import fuse_spectrum_prune
from luvc_export.export.trace import forced_decoder

pytestmark = pytest.mark.slow(beside="export/surgeon/test_equal.py::test_one_pass")

Told = Callable[[str], dict[str, Any]]


def alike(model: onnx.ModelProto, shared: Traced, expected: dict[str, Any], case: str) -> bool:
    """Whether a graph keeps torch's tokens and makes its logits and caches."""
    seen = run(model, feeds(shared.decoder, shared.plan, CASES[case]))
    assert set(seen) == set(expected)
    close = all(seen[name].shape == expected[name].shape for name in expected)
    close = close and all(np.allclose(seen[n], expected[n], atol=2e-4) for n in expected if not n.startswith("kept"))
    return close and all((seen[name] == expected[name]).all() for name in expected if name.startswith("kept"))


@pytest.mark.parametrize("target", [None, ORT_CPU, INLINED, TRT103], ids=["plain", "cpu", "onnx", "10.3"])
def test_every_dialect_computes_what_torch_does(shared: Traced, in_torch: Told, target: TargetSpec | None) -> None:
    after = shared.decoder if target is None else cut(shared.decoder, target=target)
    onnx.checker.check_model(after)
    for case in CASES if target in (None, TRT103) else ("prefill", "decode"):
        assert alike(after, shared, in_torch(case), case), case


def test_a_budget_counts_the_aggregate(in_torch: Told) -> None:
    outputs = in_torch("two")
    assert [outputs[f"present.{layer}.key"].shape[2] for layer in range(2)] == [2 * 13 + 5, 2 * 7 + 5]
    assert [outputs[f"kept_indices.{layer}"].shape for layer in range(2)] == [(1, 2, 12), (1, 2, 6)]
    images = outputs["kept_indices.1"] // 6
    assert all(len(np.unique(group)) == 4 for group in images[0])  # a quota gives every image one


def test_a_mean_that_leaves_rows_out_shows(shared: Traced, in_torch: Told) -> None:
    def halved(model: onnx.ModelProto) -> None:
        share = [node for node in model.graph.node if node.op_type == "Div" and node.input[0] in products(model)]
        assert len(share) == 2
        share[0].input[0] = next(n for n in model.graph.node if share[0].input[0] in n.output).input[1]

    def products(model: onnx.ModelProto) -> set[str]:
        return {node.output[0] for node in model.graph.node if node.op_type == "Mul"}

    assert not alike(edited(shared.decoder, halved), shared, in_torch("prefill"), "prefill")


def test_a_graph_told_what_to_keep_makes_the_same_aggregate(shared: Traced, in_torch: Told) -> None:
    debug = ir.serde.serialize_model(forced_decoder(ir.serde.deserialize_model(shared.decoder), [0, 1]))
    outputs = in_torch("prefill")
    first, then = outputs["kept_indices.0"], outputs["kept_indices.1"]
    places = (then[..., :, None] == first[..., None, :]).argmax(-1)
    inputs = feeds(shared.decoder, shared.plan, CASES["prefill"])
    read = {item.name for item in debug.graph.input}
    forced = {"forced_indices.0": first, "forced_indices.1": places}
    seen = run(debug, {name: value for name, value in (inputs | forced).items() if name in read})
    np.testing.assert_allclose(seen["logits"], outputs["logits"], atol=2e-4)


def test_in_place_caches_hold_what_grown_ones_hold(shared: Traced, in_torch: Told) -> None:
    inplace = cut(shared.decoder, target=INPLACE, text_capacity=16)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inplace.graph.input}
    assert [shapes[f"past_key_values.{n}.key"][2] for n in range(2)] == [13 + 16, 7 + 16]
    held = {n: np.zeros((1, *s[1:]), np.float32) for n, s in shapes.items() if n.startswith("past_key")}
    counts = {"past_text": np.array([0]), "past_groups": np.array([0])}
    mask = np.arange(16)[None] < 9
    inputs = feeds(shared.decoder, shared.plan, CASES["prefill"])
    seen = run(inplace, {**inputs, **held, **counts, "text_mask": mask})
    np.testing.assert_allclose(seen["logits"], in_torch("prefill")["logits"], atol=2e-4)


def test_prunes_stay_unfused_and_say_why(shared: Traced) -> None:
    assert fired(shared.decoder, fuse_spectrum_prune, target=PLUGINS) == (
        0,
        "the fused node has no aggregate: prunes with one stay as they are traced",
    )

    def lone(model: onnx.ModelProto) -> None:
        stored = next(item for item in model.metadata_props if "quota" in item.value)
        stored.value = json.dumps(replan(shared.plan, aggregate=False).to_json())

    assert "the fused node has no quota" in fired(edited(shared.decoder, lone), fuse_spectrum_prune)[1]


def test_engines_parse_it(shared: Traced) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    from test_rtx import Log, parse

    for target in (RTX, TRT103):
        log = Log()
        _, network, errors = parse(cut(shared.decoder, target=target).SerializeToString(), log)
        assert not errors and network.num_outputs == len(shared.decoder.graph.output)
