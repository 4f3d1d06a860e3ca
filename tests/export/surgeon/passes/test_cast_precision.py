"""Low precision with fp32 islands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from surgery_harness import CASES, INPLACE, RTX, Traced, broken, cut, feeds, fired, run

from luvc_export.core.operators import FUSED, SPECTRUM_PRUNE, Schema
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import cast_precision, fuse_spectrum_prune, share_rope


def test_cast_keeps_islands(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune, share_rope)
    narrow = cut(fused, cast_precision, target=RTX, precision="fp16")
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*narrow.graph.input, *narrow.graph.output)}
    assert kinds["logits"] == kinds["position_ids"] == TensorProto.FLOAT
    assert kinds["past_key_values.0.key"] == kinds["present.0.key"] == kinds["visual_embeds"] == TensorProto.FLOAT16
    full = cut(traced.decoder, target=RTX, precision="fp16")
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(full).graph.value_info}
    for node in full.graph.node:
        if node.op_type in ("ReduceL2", "Cos", "Sin"):
            assert types[node.input[0]] == TensorProto.FLOAT
        if node.op_type == "Attention":
            assert types[node.input[0]] == TensorProto.FLOAT16


def test_cast_bf16_is_well_typed(traced: Traced) -> None:
    narrow = cut(traced.decoder, target=RTX, precision="bf16")
    onnx.shape_inference.infer_shapes(narrow, strict_mode=True)


def test_cast_has_nothing_to_do(traced: Traced) -> None:
    assert fired(traced.decoder, cast_precision) == (0, "fp32 is wanted, and the graph is in fp32")
    assert fired(traced.decoder, cast_precision, target=RTX)[0] == 3
    with pytest.raises(CheckFailed, match="does not compute in this precision"):
        cut(traced.decoder, cast_precision, target=INPLACE, precision="fp16")


def differences(model: onnx.ModelProto) -> set[int]:
    """Types of what is subtracted: hidden states and what a filter passes of them, which a prune ranks by."""
    seen = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {item.name: item.type.tensor_type.elem_type for item in seen.value_info}
    return {types[node.output[0]] for node in seen.node if node.op_type == "Sub"}


@pytest.mark.slow(beside="export/surgeon/passes/test_fuse_spectrum_prune.py::test_three_prunes_are_three_nodes")
def test_prunes_that_are_not_fused_rank_in_fp32(
    traced: Traced, greedy: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rounds, by coverage, by keys and by a learned scorer; the same tokens as the graph in fp32."""
    for plain, plan in ((traced.plain["decoder"], traced.plan), (greedy.decoder, greedy.plan)):
        narrow = cut(plain, target=RTX, precision="fp16")
        arrays = feeds(plain, plan, CASES["prefill"])
        wide, other = run(plain, arrays), run(narrow, arrays)
        kept = [name for name in wide if name.startswith("kept_indices")]
        assert kept
        for name in kept:
            np.testing.assert_array_equal(other[name], wide[name])
    assert TensorProto.FLOAT16 not in differences(narrow)
    monkeypatch.setattr(cast_precision, "_deciding", lambda graph, order: set())
    assert TensorProto.FLOAT16 in differences(cut(greedy.decoder, cast_precision, target=RTX, precision="fp16"))


def test_cast_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    form = SPECTRUM_PRUNE.fused
    wrong = [replace(tensor, low=tensor.low or tensor.name in ("kept_cos", "kept_sin")) for tensor in form.outputs]
    monkeypatch.setitem(FUSED, "SpectrumPrune", Schema(replace(form, outputs=tuple(wrong))))
    assert broken(fused, lambda: cut(fused, cast_precision, target=RTX, precision="fp16"), traced, "fp16")
