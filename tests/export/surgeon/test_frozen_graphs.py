"""Frozen layers in the graphs: what they compute no more, and the same answers in every dialect and form of cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from slow_cases import slow_but
from surgery_harness import INLINED, INPLACE, PLUGINS, RTX, TRT103, Traced, cut, edited, equal, feeds, run

from luvc_export.calibration.runners.probes import add_hidden_outputs, hidden_name
from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import lint

pytestmark = pytest.mark.slow(beside="export/surgeon/test_equal.py::test_one_pass")


@pytest.mark.parametrize(
    ("target", "precision"),
    slow_but([INLINED, RTX], [(INLINED, "fp32"), (ORT_CPU, "fp32"), (RTX, "fp16"), (TRT103, "fp32"), (TRT103, "fp16")]),
    ids=["inlined", "cpu", "rtx-fp16", "primitive-fp32", "primitive-fp16"],
)
def test_every_dialect_computes_the_same(frozen: Traced, target: TargetSpec, precision: Any) -> None:
    after = cut(frozen.decoder, target=target, precision=precision)
    onnx.checker.check_model(after)
    assert equal(frozen.decoder, after, frozen.plan, "constants" if target in (ORT_CPU, INLINED) else precision)


def test_the_prune_beside_a_frozen_layer_is_fused(frozen: Traced) -> None:
    called = cut(frozen.decoder, target=PLUGINS)
    assert [node.op_type for node in called.graph.node].count("SpectrumPrune") == 1


#: Products of a layer in the order in which it computes them.
PARTS = ("k_proj", "v_proj", "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def named(model: onnx.ModelProto) -> None:
    """Give weights their names again, which folding took from such small ones."""
    stored = {item.name: item for item in model.graph.initializer if len(item.dims) == 2 and 24 not in item.dims}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    for number, node in enumerate(products[: 7 * 3]):
        stored[node.input[1]].name = f"layers.{number // 7}.self_attn.{PARTS[number % 7]}.weight"
        node.input[1] = stored[node.input[1]].name


def test_a_frozen_layer_multiplies_text_and_the_tokens_whose_turn_it_is(frozen: Traced) -> None:
    """Rows that each weight is multiplied with in prefill: 24 visual ones and 7 of text, or the text and a third."""

    def printing(model: onnx.ModelProto) -> None:
        named(model)
        model.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in products(model))

    def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
        return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1].startswith("layers.")]

    model = edited(frozen.decoder, printing)
    seen = run(model, feeds(frozen.decoder, frozen.plan, (1, 1, 7, 0, 0)))
    rows = {node.input[1]: seen[node.output[0]].shape[1] for node in products(model)}
    assert len(rows) == 21
    for layer, keep in enumerate(frozen.plan.keep):
        for part in PARTS:
            alone = layer in frozen.plan.llm.kv_only and part not in ("k_proj", "v_proj")
            assert rows[f"layers.{layer}.self_attn.{part}.weight"] == (7 + keep // 3 if alone else keep + 7), (
                layer,
                part,
            )


def test_inplace_caches_hold_what_grown_ones_hold(frozen: Traced) -> None:
    plan, capacity = frozen.plan, 16
    inplace = cut(frozen.decoder, target=INPLACE, text_capacity=capacity)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inplace.graph.input}
    assert [shapes[f"past_key_values.{n}.key"][2] for n in range(plan.layers)] == [k + capacity for k in plan.keep]
    held = {n: np.zeros((1, *s[1:]), np.float32) for n, s in shapes.items() if n.startswith("past_key")}
    inputs, text, past_images = feeds(frozen.decoder, plan, (1, 1, 7, 0, 0)), 0, 0
    for step in range(3):
        new = inputs["input_ids"].shape[1]
        mask = np.zeros((1, capacity), np.bool_)
        mask[:, : text + new] = True
        counts = {"past_text": np.array([text]), "past_groups": np.array([past_images])}
        plain, fixed = run(frozen.decoder, inputs), run(inplace, {**inputs, **held, **counts, "text_mask": mask})
        assert np.abs(plain["logits"] - fixed["logits"]).max() <= 2e-5 * np.abs(plain["logits"]).max()
        text, past_images = text + new, 1
        held = {n: fixed[n.replace("past_key_values", "present")] for n in held}
        inputs = feeds(frozen.decoder, plan, (1, 0, 1, 1, text), seed=step)
        inputs |= {n: plain[n.replace("past_key_values", "present")] for n in inputs if n.startswith("past_key")}


def test_parity_finds_what_enters_a_frozen_layer(frozen: Traced) -> None:
    probed = edited(frozen.decoder, named)
    assert add_hidden_outputs(probed, frozen.plan)
    seen = run(probed, feeds(frozen.decoder, frozen.plan, (1, 1, 7, 0, 0)))
    entered = [seen[hidden_name(layer)] for layer in range(frozen.plan.layers)]
    assert [hidden.shape[1] for hidden in entered] == [keep + 7 for keep in frozen.plan.keep]
    kept = seen["kept_indices.1"][0, 0]
    moved = entered[1][0, :9] - entered[0][0, kept]
    assert np.abs(moved).max(1).min() > 0.01  # layer 0 moved every visual row
    assert np.abs(entered[1][:, 9:] - entered[0][:, 24:]).max() > 0.01


def test_engines_parse_it(frozen: Traced) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    from test_rtx import Log, parse

    for target in (RTX, TRT103):
        log = Log()
        _, network, errors = parse(cut(frozen.decoder, target=target, precision="fp16").SerializeToString(), log)
        assert not errors and network.num_outputs == len(frozen.decoder.graph.output)


def test_lint_sees_a_frozen_graph_that_is_broken(frozen: Traced) -> None:
    def unread(model: onnx.ModelProto) -> None:
        model.graph.input.append(onnx.helper.make_tensor_value_info("spare", 1, [2]))

    with pytest.raises(CheckFailed, match="input spare is read by nothing"):
        cut(edited(frozen.decoder, unread), lint, target=TargetSpec("strict", "onnx"))
