"""A step of a quantised plan: weights in codes are multiplied by fp32 activations, other weights in bf16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.islands import narrow_floats

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")


def two_products(library: Any) -> Any:
    """A product with codes of 8 bits, and one with floats behind it."""
    ops, random = library.opset13, np.random.default_rng(0)
    row = ops.parameter([-1, 64], library.Type.f32)
    codes = ops.convert(ops.constant(random.integers(0, 256, (96, 64), np.uint8)), "f32")
    coded = ops.multiply(ops.subtract(codes, np.float32(128)), np.full((96, 1), 0.002, np.float32))
    inner = ops.matmul(row, coded, False, True)
    floats = ops.constant(random.standard_normal((64, 96), np.float32) / 10)
    return library.Model([ops.result(ops.matmul(inner, floats, False, True))], [row])


def test_products_of_floats_are_narrowed_and_those_of_codes_are_not() -> None:
    library = devices.load_library()
    row = np.random.default_rng(1).standard_normal((1, 64), np.float32)
    outputs = []
    for narrowed in (False, True):
        model = two_products(library)
        if narrowed:
            assert narrow_floats(library, model) == 1
            kinds = [node.output(0).get_element_type() for node in model.get_ordered_ops() if "MatMul" in str(node)]
            assert kinds[0] == library.Type.f32 and kinds[-1] == library.Type.bf16
        compiled = devices.core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs.append(np.array(compiled.create_infer_request().infer([row])[0]))
    exact, near = outputs
    assert 0 < np.abs(near - exact).max() < 2e-2 * np.abs(exact).max(), "bf16 rounds, and only so much"
