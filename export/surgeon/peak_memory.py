"""Memory the tensors of a graph take at once, from shapes alone: what an engine's activations will need about.

Every tensor lives from the node that makes it to the last that reads it, in the graph's order. A back-end that fuses
needs less; one that reorders may need more. Weights, what is computed of weights alone, inputs and outputs are not
counted. Sizes that are computed in the graph, as numbers of chunks are, are computed here too; what the inference of
ONNX cannot tell even so is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from luvc_export.export.surgeon.flops import evaluate
from luvc_export.export.surgeon.passes.cast_precision import RULE

_TYPES = onnx.TensorProto
#: Of the tensors of one delta rule, which engines run as one. They asked for 0.48 to 0.62 of them all (256 and 1,024
#: tokens, 1 and 4 rows, fp16 and fp32, tiny Qwen3.5, TensorRT-RTX); predictions have a margin on top.
_KEPT = 0.6
#: Elements of a tensor that is evaluated.
_FEW = 4096
#: What holds graphs, or draws.
_BODIES = ("If", "Loop", "Scan", "RandomUniform", "RandomNormal")
_BITS = {
    **dict.fromkeys((_TYPES.INT64, _TYPES.DOUBLE), 64),
    **dict.fromkeys((_TYPES.FLOAT16, _TYPES.BFLOAT16, _TYPES.INT16), 16),
    **dict.fromkeys((_TYPES.BOOL, _TYPES.UINT8, _TYPES.INT8, _TYPES.FLOAT8E4M3FN), 8),
    **dict.fromkeys((_TYPES.INT4, _TYPES.UINT4), 4),
}


def peak_bytes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Bytes of the tensors alive at the worst moment.

    Args:
        model: A graph.
        shapes: Sizes of the inputs that have open ones.
    """
    sizes = _sizes(model, shapes)
    constant = {tensor.name for tensor in model.graph.initializer}
    readers = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    alive: dict[str, int] = {}
    now = most = together = 0
    for index, node in enumerate(model.graph.node):
        if all(name in constant for name in node.input if name):
            constant |= set(node.output)
            continue
        outputs = {name: sizes[name] for name in node.output if name in sizes}
        alive |= outputs
        now += sum(outputs.values())
        together = together + sum(outputs.values()) if node.name.startswith(RULE) else 0
        most = max(most, now, round(_KEPT * together))
        now -= sum(alive.pop(name) for name in {*node.input} if readers[name] == index and name in alive)
    return most


def weight_bytes(model: onnx.ModelProto, precision: str) -> int:
    """Bytes of the initializers, floats counted in ``precision`` (fp32, fp16, bf16)."""
    wide = 32 if precision == "fp32" else 16
    floats = (_TYPES.FLOAT, _TYPES.FLOAT16, _TYPES.BFLOAT16)
    return sum(
        ceil(prod(tensor.dims) * (wide if tensor.data_type in floats else _BITS.get(tensor.data_type, 32)) / 8)
        for tensor in model.graph.initializer
    )


def _sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Bytes of intermediate tensors by name: of the exporter's symbolic sizes, and what follows from those."""
    symbols = {
        dim.dim_param: size
        for item in model.graph.input
        for dim, size in zip(item.type.tensor_type.shape.dim, shapes.get(item.name, ()), strict=False)
        if dim.dim_param
    }
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for item in (*fixed.graph.input, *fixed.graph.value_info):
        dims = [_size(dim, symbols) for dim in item.type.tensor_type.shape.dim]
        if None in dims or not item.type.tensor_type.HasField("shape"):
            continue
        for dim, size in zip(item.type.tensor_type.shape.dim, dims, strict=True):
            dim.dim_value = size
    for item in fixed.graph.output:
        item.type.tensor_type.ClearField("shape")
    sizes = {}
    for item in _inferred(fixed).graph.value_info:
        kind = item.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            count = prod(dim.dim_value for dim in kind.shape.dim)
            sizes[item.name] = ceil(count * _BITS.get(kind.elem_type, 32) / 8)
    return sizes


def _size(dim: Any, symbols: Mapping[str, int]) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") else evaluate(dim.dim_param, dict(symbols))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes of ``model``, whose inputs are fixed; it is changed: integers computed of shapes become initializers."""
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location != _TYPES.EXTERNAL and _counts(tensor.data_type, prod(tensor.dims))
    }
    while True:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        shapes = {item.name: item.type.tensor_type for item in (*inferred.graph.value_info, *inferred.graph.input)}
        left, computed = list[onnx.NodeProto](), dict[str, NDArray[Any]]()
        for node in model.graph.node:
            values = _values(node, shapes, constants | computed)
            computed |= values
            left += [] if values else [node]
        if not computed:
            return inferred
        constants |= computed
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(left)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in computed.items())


def _values(node: onnx.NodeProto, shapes: Mapping[str, Any], constants: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Few integers that a node gives, where they are known; elsewhere nothing."""
    names = [name for name in node.input if name]
    if node.op_type == "Shape" and names[0] in shapes:
        dims = shapes[names[0]].shape.dim
        if not shapes[names[0]].HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
            return {}
        constants = {names[0]: np.broadcast_to(np.int8(0), [dim.dim_value for dim in dims])}
    if node.domain not in ("", "ai.onnx") or node.op_type in _BODIES or any(name not in constants for name in names):
        return {}
    results = ReferenceEvaluator(node).run(None, {name: constants[name] for name in names})
    values = dict(zip(node.output, map(np.asarray, results), strict=True))
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for value in values.values()]
    small = all(_counts(kind, value.size) for kind, value in zip(kinds, values.values(), strict=True))
    return values if small else {}


def _counts(kind: int, elements: int) -> bool:
    """Whether a tensor may be sizes or places."""
    return kind in (_TYPES.INT64, _TYPES.INT32, _TYPES.BOOL) and elements <= _FEW
