"""Low precision with fp32 islands."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto
from surgery_harness import INPLACE, RTX, Traced, broken, cut, fired

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
    with pytest.raises(CheckFailed, match="scores would be rounded"):
        cut(traced.plain["decoder"], cast_precision, target=RTX, precision="fp16")
    with pytest.raises(CheckFailed, match="does not compute in this precision"):
        cut(traced.decoder, cast_precision, target=INPLACE, precision="fp16")


def test_cast_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    form = SPECTRUM_PRUNE.fused
    wrong = [replace(tensor, low=tensor.low or tensor.name in ("kept_cos", "kept_sin")) for tensor in form.outputs]
    monkeypatch.setitem(FUSED, "SpectrumPrune", Schema(replace(form, outputs=tuple(wrong))))
    assert broken(fused, lambda: cut(fused, cast_precision, target=RTX, precision="fp16"), traced, "fp16")
