"""Single nodes and small graphs computed by the ONNX reference implementation: no runtime is needed to fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


def code(dtype: Any) -> int:
    """ONNX number of a numpy dtype."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def node(item: gs.Node, arrays: list[Array], opset: int) -> list[Array]:
    """Outputs of one node on constant inputs."""
    inputs = [gs.Variable(f"i{n}", dtype=array.dtype, shape=array.shape) for n, array in enumerate(arrays)]
    outputs = [gs.Variable(f"o{n}") for n in range(len(item.outputs))]
    remaining = iter(inputs)
    wired = [next(remaining) if tensor.name else gs.Variable.empty() for tensor in item.inputs]
    return graph([gs.Node(item.op, "n", dict(item.attrs), wired, outputs)], inputs, outputs, arrays, opset)


def graph(
    nodes: list[gs.Node], inputs: list[gs.Variable], outputs: list[gs.Variable], arrays: list[Array], opset: int
) -> list[Array]:
    """Outputs of a few nodes, given arrays for ``inputs``."""
    model = gs.export_onnx(gs.Graph(nodes, inputs, outputs, opset=opset, ir_version=10), do_type_check=False)
    result = ReferenceEvaluator(model).run(None, {t.name: a for t, a in zip(inputs, arrays, strict=True)})
    return [np.asarray(array) for array in result]
