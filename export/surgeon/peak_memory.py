"""Memory the tensors of a graph take at once, from shapes alone: what an engine's activations will need about.

Every tensor lives from the node that makes it to the last that reads it, in the graph's order. A back-end that fuses
needs less; one that reorders may need more. Weights, what is computed of weights alone, inputs and outputs are not
counted. Tensors whose size the inference of ONNX cannot tell (positions and masks, mostly) are not either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any

import onnx

from luvc_export.export.surgeon.flops import evaluate

_TYPES = onnx.TensorProto
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
    now = most = 0
    for index, node in enumerate(model.graph.node):
        if all(name in constant for name in node.input if name):
            constant |= set(node.output)
            continue
        outputs = {name: sizes[name] for name in node.output if name in sizes}
        alive |= outputs
        now += sum(outputs.values())
        most = max(most, now)
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
    for item in onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph.value_info:
        kind = item.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            count = prod(dim.dim_value for dim in kind.shape.dim)
            sizes[item.name] = ceil(count * _BITS.get(kind.elem_type, 32) / 8)
    return sizes


def _size(dim: Any, symbols: Mapping[str, int]) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") else evaluate(dim.dim_param, dict(symbols))
