"""What a graph can be quantised at: products with a checkpoint's tensors, and no constants of the model's own sums."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from luvc_export.calibration.quantise.sites import sites


def test_a_triangle_that_sums_rows_is_no_weight() -> None:
    """The decay of a gated delta rule is a running sum, written as a product; in codes it would be another sum."""
    x = ir.Value(name="x", shape=ir.Shape([3, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    names = ("model.layers.0.proj.weight", "Constant_51")
    tri = ir.tensor(np.tri(4, dtype=np.float32))
    weights = [ir.Value(name=name, shape=ir.Shape([4, 4]), const_value=tri) for name in names]
    nodes = [ir.node("MatMul", [x, weight], name=f"product_{index}") for index, weight in enumerate(weights)]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=weights, opset_imports={"": 23}, name="g")
    assert [*sites(graph)] == ["model.layers.0.proj"]
