"""Products that share an input: query, key and value, gate and up."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from surgery_harness import Traced, broken, cut, fired, operators, small

from luvc_export.export.surgeon import fuse_gate_up, fuse_qkv, weights

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
    assert fired(traced.decoder, fuse_qkv)[0] == 3
    assert fired(traced.decoder, fuse_gate_up)[0] == 3
    assert fired(traced.vision, fuse_gate_up)[0] == 2
    assert operators(traced.decoder, "MatMul") - operators(cut(traced.decoder, fuse_qkv, fuse_gate_up), "MatMul") == 9


def test_other_projections_stay(traced: Traced) -> None:
    assert fired(traced.vision, fuse_qkv) == (0, "query, key and value come from one product already")
    count, reason = fired(products("z"), fuse_gate_up)
    assert (count, "different tensors" in reason) == (0, True)
    assert fired(products("x"), fuse_gate_up)[0] == 1


@pytest.mark.parametrize("item", [fuse_qkv, fuse_gate_up])
def test_projections_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch, item: Any) -> None:
    joined = weights.joined
    monkeypatch.setattr(weights, "joined", lambda s, tensors, axis: joined(s, tensors[::-1], axis))
    assert broken(traced.decoder, lambda: cut(traced.decoder, item), traced, "products")
