"""Products that share an input: query, key and value, gate and up."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from surgery_harness import INLINED, RTX, Traced, broken, cut, fired, operators, small

from luvc_export.export.surgeon import joined_weights
from luvc_export.export.surgeon.passes import fuse_gate_up, fuse_qkv, inline_functions

PRODUCTS = """g (float[1,S,4] x, float[1,S,4] z) => (float[1,S,4] y) <float[4,4] a, float[4,4] b> {
    p = MatMul(x, a)
    s = Sigmoid(p)
    q = MatMul(OTHER, b)
    y = Mul(s, q)
}"""


def products(other: str) -> onnx.ModelProto:
    model = small(PRODUCTS.replace("OTHER", other).replace("<float[4,4] a, float[4,4] b>", ""))
    for number, name in enumerate("ab"):
        values = np.random.default_rng(number).normal(size=16)
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [4, 4], values))
    return onnx.shape_inference.infer_shapes(model)


def test_projections_are_one_product(traced: Traced) -> None:
    assert fired(traced.decoder, fuse_qkv, target=RTX)[0] == 3
    assert fired(traced.decoder, fuse_gate_up, target=RTX)[0] == 3
    assert fired(traced.vision, fuse_gate_up, target=RTX)[0] == 2
    assert (
        operators(traced.decoder, "MatMul")
        - operators(cut(traced.decoder, fuse_qkv, fuse_gate_up, target=RTX), "MatMul")
        == 9
    )


def test_other_projections_stay(traced: Traced) -> None:
    assert fired(traced.vision, fuse_qkv, target=RTX) == (0, "query, key and value come from one product already")
    count, reason = fired(products("z"), fuse_gate_up, target=RTX)
    assert (count, "different tensors" in reason) == (0, True)
    assert fired(products("x"), fuse_gate_up, target=RTX)[0] == 1


@pytest.mark.parametrize("item", [fuse_qkv, fuse_gate_up])
def test_projections_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch, item: Any) -> None:
    joined = joined_weights.joined
    monkeypatch.setattr(joined_weights, "joined", lambda s, tensors, axis: joined(s, tensors[::-1], axis))
    assert broken(traced.decoder, lambda: cut(traced.decoder, item, target=RTX), traced, "products")


def test_products_stay_apart_where_joining_copies(traced: Traced) -> None:
    """ONNX Runtime's graphs keep every weight as its file has it; a build for TensorRT joins them then."""
    for item in (fuse_qkv, fuse_gate_up):
        count, reason = fired(traced.decoder, item)
        assert (count, "copies a joined weight" in reason) == (0, True)
    apart, joined = cut(traced.decoder), cut(traced.decoder, target=RTX)
    assert operators(cut(apart, target=RTX), "MatMul") == operators(joined, "MatMul")
    assert operators(cut(apart, target=INLINED), "MatMul") < operators(
        cut(apart, inline_functions, target=INLINED), "MatMul"
    )
