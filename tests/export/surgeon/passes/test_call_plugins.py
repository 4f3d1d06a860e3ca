"""A target with plugins gets nodes as the contract says, one without gets bodies; both compute the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from native_kernels import Native
from plugin_runner import run_with_kernels
from surgery_harness import CASES, INLINED, PLUGINS, PLUGINS103, TRT103, Traced, cut, edited, feeds, fired, inputs, run
from tolerance import TOLERANCES

from luvc_export.core import operators
from luvc_export.core.operators import DOMAIN
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery
from luvc_export.export.surgeon.passes import (
    call_plugins,
    fuse_orthogonal_merge,
    fuse_spectrum_prune,
    inline_functions,
)

IDENTITY = {"plugin_namespace": "luvc", "plugin_version": "1"}


def calls(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def close(before: onnx.ModelProto, after: onnx.ModelProto, traced: Traced, library: Native, kind: str) -> bool:
    """Whether the native kernels in ``after`` give what ``before`` gives, in every case."""
    for feed in inputs(before, traced.plan).values():
        old, new = run(before, feed), run_with_kernels(after, feed, library)
        for name, wanted in old.items():
            if wanted.shape != new[name].shape:
                return False
            scale = max(1.0, float(np.abs(wanted).max(initial=0)))
            difference = np.abs(wanted.astype(np.float64) - new[name]).max(initial=0)
            if not difference <= TOLERANCES[kind].largest * scale:
                return False
    return True


@pytest.mark.parametrize("first", ["traced", "bundle"])
@pytest.mark.parametrize(("with_plugins", "without"), [(PLUGINS, INLINED), (PLUGINS103, TRT103)], ids=["onnx", "10.3"])
def test_nodes_are_kept_with_plugins_and_inlined_without(
    traced: Traced, with_plugins: Any, without: Any, first: str
) -> None:
    """From a traced graph, and from one of a bundle, whose norms are shared already."""
    for half, wanted in (
        ("vision", [("OrthogonalMerge", {"removed_columns": 1, "removed_rows": 1})]),
        ("decoder", [("SpectrumPrune", {"keep": keep}) for keep in (12, 6)]),
    ):
        model = getattr(traced, half)
        model = model if first == "traced" else cut(model)
        called = cut(model, target=with_plugins)
        assert [node.op_type for node in calls(called)] == [name for name, _ in wanted]
        assert all(
            own.items() <= attributes(node).items() for node, (_, own) in zip(calls(called), wanted, strict=True)
        )
        assert not called.functions  # TensorRT would take a function before a plugin
        assert {node.domain for node in called.graph.node} == {"", DOMAIN}
        plain = cut(model, target=without)
        assert {node.domain for node in plain.graph.node} == {""}
        assert not plain.functions


def test_a_prune_has_what_the_creator_reads_and_no_more(traced: Traced) -> None:
    node = calls(cut(traced.decoder, target=PLUGINS))[0]
    fused = next(n for n in cut(traced.decoder, fuse_spectrum_prune).graph.node if n.op_type == "SpectrumPrune")
    values = attributes(node)
    assert values.pop("epsilon") == attributes(fused)["epsilon"]
    score = traced.plan.llm.method.name
    assert values == {"keep": 12, "score": score, "token_axes": [1, 1, 1, 1], **IDENTITY}
    assert (len(node.input), len(node.output)) == (7, 6)


@pytest.mark.parametrize("target", [PLUGINS, PLUGINS103], ids=["onnx", "10.3"])
@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_native_kernels_in_the_graph_give_the_same(
    traced: Traced, native_library: Native, half: str, target: Any
) -> None:
    """No image, one, two, and a batch: the slices, joins and norms around the calls are right."""
    model = getattr(traced, half)
    assert close(model, cut(cut(model), target=target), traced, native_library, "constants")


def test_native_kernels_in_half_precision(traced: Traced, native_library: Native) -> None:
    for half in (traced.vision, traced.decoder):
        called = cut(half, target=PLUGINS, precision="fp16")
        assert calls(called)
        assert close(half, called, traced, native_library, "fp16")


def test_a_payload_nothing_reads_is_left_out(traced: Traced) -> None:
    def forget_order(model: onnx.ModelProto) -> None:
        node = [n for n in model.graph.node if n.op_type == "SpectrumPrune"][-1]
        drop = next(n for n in model.graph.node if n.op_type == "SpectrumDrop")
        for reader in model.graph.node:
            for place, name in enumerate(reader.input):
                if name == node.output[1]:
                    reader.input[place] = node.input[3]
        drop.input[1] = node.input[3]

    called = cut(edited(cut(traced.decoder, fuse_spectrum_prune), forget_order), call_plugins, target=PLUGINS)
    assert [len(node.output) for node in calls(called)] == [6, 5]


def set_attribute(op: str, name: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == op:
                next(a for a in node.attribute if a.name == name).s = value.encode()

    return change


def read_copies(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "OrthogonalMerge")
    model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[3], 1, None))


@pytest.mark.parametrize(
    ("half", "change", "reason"),
    [
        ("decoder", set_attribute("SpectrumPrune", "axis", "channel"), "the plugin filters along tokens, the plan alo"),
        ("decoder", set_attribute("SpectrumPrune", "score", "other"), "the plugin has no score other"),
        ("vision", set_attribute("OrthogonalMerge", "mode", "max"), "the plugin merges by mean, the plan by max"),
        ("vision", read_copies, "it carries original positions, the plugin mean ones"),
    ],
    ids=["channel", "score", "max", "copies"],
)
def test_what_a_plugin_cannot_do_is_inlined(
    traced: Traced, half: str, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    fused = edited(cut(getattr(traced, half), fuse_orthogonal_merge, fuse_spectrum_prune), change)
    count, why = fired(fused, call_plugins, target=PLUGINS)
    assert count == 0
    assert reason in why
    inlined = cut(fused, call_plugins, inline_functions, target=PLUGINS)
    assert {node.domain for node in inlined.graph.node} == {""}


def test_targets_without_the_plugin(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    assert fired(fused, call_plugins, target=INLINED) == (0, "the target has no plugins")
    assert fired(traced.plain["decoder"], call_plugins, target=PLUGINS) == (0, "there is no fused node")
    merges_only = dataclasses.replace(PLUGINS, plugins=frozenset({"OrthogonalMerge"}))
    count, why = fired(fused, call_plugins, target=merges_only)
    assert (count, "SpectrumPrune stays an ONNX function: the target has no plugin for it" in why) == (0, True)
    unknown = dataclasses.replace(PLUGINS, plugins=frozenset({"SpectralPrune"}))
    with pytest.raises(CheckFailed, match="did you mean 'SpectrumPrune'"):
        cut(fused, call_plugins, target=unknown)


def drifted(name: str, **changes: Any) -> operators.Operator:
    return dataclasses.replace(operators.OPERATORS[name], **changes)


PRUNE, MERGE = operators.OPERATORS["SpectrumPrune"], operators.OPERATORS["OrthogonalMerge"]


@pytest.mark.parametrize(
    ("half", "operator", "message"),
    [
        ("decoder", drifted("SpectrumPrune", inputs=PRUNE.inputs[:3]), "7 inputs, the contract has 3"),
        ("decoder", drifted("SpectrumPrune", outputs=PRUNE.outputs[1:]), "6 outputs, the contract has 5"),
        ("decoder", drifted("SpectrumPrune", attributes=PRUNE.attributes[1:]), "attribute keep is not in the contract"),
        (
            "decoder",
            drifted("SpectrumPrune", attributes=(*PRUNE.attributes, operators.Attribute("rho", "FLOAT"))),
            "attribute rho is missing",
        ),
        (
            "decoder",
            drifted("SpectrumPrune", attributes=(operators.Attribute("keep", "FLOAT"), *PRUNE.attributes[1:])),
            "attribute keep is 12, the contract has FLOAT",
        ),
        (
            "vision",
            drifted(
                "OrthogonalMerge",
                outputs=(*MERGE.outputs[:3], operators.OperatorTensor("merged_into", ("int64",), ("B", "H", "W"))),
            ),
            "merged_into is int32, the contract has int64",
        ),
        (
            "vision",
            drifted(
                "OrthogonalMerge", outputs=(MERGE.outputs[0], MERGE.outputs[2], MERGE.outputs[1], MERGE.outputs[3])
            ),
            "merged_positions has 3 axes",
        ),
    ],
    ids=["inputs", "outputs", "attribute", "new attribute", "kind", "type", "order"],
)
def test_a_contract_that_drifts_is_caught(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, half: str, operator: operators.Operator, message: str
) -> None:
    """A graph made by one contract does not fit another."""
    surgery = Surgery.open(cut(getattr(traced, half), target=PLUGINS), PLUGINS)
    call_plugins.ensures(surgery, 1)
    monkeypatch.setitem(operators.OPERATORS, operator.name, operator)
    with pytest.raises(CheckFailed) as caught:
        call_plugins.ensures(surgery, 1)
    assert message in str(caught.value)


def test_a_node_that_drifts_is_caught(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    called = cut(traced.decoder, target=PLUGINS)
    for node in calls(called):
        next(item for item in node.attribute if item.name == "plugin_namespace").s = b"other"
    with pytest.raises(CheckFailed, match="attribute plugin_namespace is 'other', the contract has 'luvc'"):
        call_plugins.ensures(Surgery.open(called, PLUGINS), 1)


def test_a_wrong_join_is_caught(traced: Traced, native_library: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    joined_before = call_plugins.VisualRows.with_text

    def without_last(self: Any, kept: Any, sequence: Any, tail: list[int]) -> Any:
        wrong = self._emit("Sub", [self.end, self.groups])
        self.end, right = wrong, self.end
        joined = joined_before(self, kept, sequence, tail)
        self.end = right
        return joined

    monkeypatch.setattr(call_plugins.VisualRows, "with_text", without_last)
    graph = cut(traced.decoder, target=PLUGINS)
    feed = feeds(traced.decoder, traced.plan, CASES["prefill"])
    try:
        moved = np.abs(run_with_kernels(graph, feed, native_library)["logits"] - run(traced.decoder, feed)["logits"])
    except (TypeError, ValueError, RuntimeError):  # sizes do not fit: caught earlier still
        return
    assert moved.max() > 1e-3


def test_a_prune_too_large_for_the_plugin_is_inlined(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it keeps more than TensorRT's TopK takes."""
    monkeypatch.setattr(call_plugins, "MOST_FREQUENCIES", 0)
    times, reason = fired(traced.decoder, fuse_spectrum_prune, call_plugins, target=PLUGINS)
    assert times == 0 and "frequencies the inlined form should be faster (docs/plugin-costs.md)" in reason
    monkeypatch.setattr(call_plugins, "TENSORRT_TOPK_LIMIT", 1)
    assert fired(traced.decoder, fuse_spectrum_prune, call_plugins, target=PLUGINS)[0] == 2
