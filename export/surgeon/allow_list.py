"""What the ONNX parser of TensorRT 10.3 takes: operator, newest version, attributes, element types.

Source: docs/operators.md of github.com/onnx/onnx-tensorrt at branch 10.1-GA, commit
96e781103cfc4adf4a6bb557e94bac8e693f6f4c (17 June 2024), the newest published one before TensorRT 10.3 (August 2024);
what 10.1 takes 10.3 takes. It reads opset 9 to 20. Listed is the part of it that graphs of this project use, with the
restrictions that file states: TopK sorted, K below 3840; integer Clip absent; UINT8 only as network input; INT8 and
FP8 only between Q and DQ (it reads INT4 too, which opset 20 cannot say). A TensorRT-RTX build proves nothing for
10.3: its parser is newer. All of it is on the list of 11.1 as well, the newest there is
(tests/engines/test_operators.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.target import PRIMITIVE_OPSET

_T = onnx.TensorProto
_FLOATS = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16})
_NUMBERS = _FLOATS | {_T.INT32, _T.INT64}
_ALL = _NUMBERS | {_T.BOOL}
_QUANTISED = _FLOATS | {_T.INT8, _T.FLOAT8E4M3FN}


@dataclass(frozen=True)
class Entry:
    """Newest version of an operator, the attributes that may be set, the types of its data."""

    version: int
    attributes: frozenset[str] = frozenset()
    types: frozenset[int] = frozenset(_NUMBERS)


def _entry(version: int, attributes: str = "", types: frozenset[int] = frozenset(_NUMBERS)) -> Entry:
    return Entry(version, frozenset(attributes.split()), types)


ALLOWED: dict[str, Entry] = {
    "Abs": _entry(13),
    "Add": _entry(14),
    "And": _entry(7, types=frozenset({_T.BOOL})),
    "ArgMax": _entry(13, "axis keepdims select_last_index"),
    "AveragePool": _entry(19, "kernel_shape strides pads ceil_mode count_include_pad auto_pad", _FLOATS),
    "BatchNormalization": _entry(15, "epsilon momentum training_mode", _FLOATS),
    "Cast": _entry(19, "to saturate", _ALL | {_T.UINT8}),
    "CastLike": _entry(19, "saturate", _ALL),
    "Clip": _entry(13, types=_FLOATS),
    "Concat": _entry(13, "axis", _ALL),
    "Constant": _entry(19, "value value_float value_floats value_int value_ints", _ALL),
    "ConstantOfShape": _entry(20, "value", _ALL),
    "Conv": _entry(11, "kernel_shape strides pads dilations group auto_pad", _FLOATS),
    "Cos": _entry(7, types=_FLOATS),
    "DequantizeLinear": _entry(19, "axis", _QUANTISED),
    "Div": _entry(14),
    "Equal": _entry(19),
    "Erf": _entry(13, types=_FLOATS),
    "Exp": _entry(13, types=_FLOATS),
    "Expand": _entry(13, types=_ALL),
    "Floor": _entry(13, types=_FLOATS),
    "Gather": _entry(13, "axis", _ALL),
    "GatherElements": _entry(13, "axis", _ALL),
    "GatherND": _entry(13, "batch_dims", _ALL),
    "Gelu": _entry(20, "approximate"),
    "Gemm": _entry(13, "alpha beta transA transB", _FLOATS),
    "Greater": _entry(13),
    "GreaterOrEqual": _entry(16),
    "Identity": _entry(19, types=_ALL),
    "LayerNormalization": _entry(17, "axis epsilon stash_type", _FLOATS),
    "Less": _entry(13),
    "LessOrEqual": _entry(16),
    "Log": _entry(13, types=_FLOATS),
    "MatMul": _entry(13, types=_FLOATS),
    "Max": _entry(13),
    "Min": _entry(13),
    "Mod": _entry(13, "fmod"),
    "Mul": _entry(14),
    "Neg": _entry(13),
    "Not": _entry(1, types=frozenset({_T.BOOL})),
    "Or": _entry(7, types=frozenset({_T.BOOL})),
    "Pad": _entry(19, "mode"),
    "Pow": _entry(15, types=_FLOATS),
    "QuantizeLinear": _entry(19, "axis saturate", _QUANTISED),
    "Range": _entry(11),
    "Reciprocal": _entry(13, types=_FLOATS),
    "ReduceL2": _entry(18, "keepdims noop_with_empty_axes"),
    "ReduceMax": _entry(20, "keepdims noop_with_empty_axes"),
    "ReduceMean": _entry(18, "keepdims noop_with_empty_axes"),
    "ReduceSum": _entry(13, "keepdims noop_with_empty_axes"),
    "Relu": _entry(14),
    "Reshape": _entry(19, "allowzero", _ALL),
    "Shape": _entry(19, "start end", _ALL),
    "Sigmoid": _entry(13, types=_FLOATS),
    "Sin": _entry(7, types=_FLOATS),
    "Slice": _entry(13, types=_ALL),
    "Softmax": _entry(13, "axis", _FLOATS),
    "Softplus": _entry(1, types=_FLOATS),
    "Split": _entry(18, "axis num_outputs", _ALL),
    "Sqrt": _entry(13, types=_FLOATS),
    "Squeeze": _entry(13, types=_ALL),
    "Sub": _entry(14),
    "Tanh": _entry(13, types=_FLOATS),
    "Tile": _entry(13, types=_ALL),
    "TopK": _entry(11, "axis largest sorted"),
    "Transpose": _entry(13, "perm", _ALL),
    "Trilu": _entry(14, "upper", _ALL),
    "Unsqueeze": _entry(13, types=_ALL),
    "Where": _entry(16, types=_ALL),
}


def problems(model: onnx.ModelProto) -> Iterator[str]:
    """One line for everything in ``model`` the parser does not take."""
    opset = {item.domain: item.version for item in model.opset_import}.get("", 0)
    if opset > PRIMITIVE_OPSET:
        yield f"opset {opset}: the parser reads up to {PRIMITIVE_OPSET}"
        return
    types = _types(model)
    for node in model.graph.node:
        where = f"{node.op_type} ({node.name})"
        if node.domain == PLUGIN_DOMAIN:  # what a creator reads, ``plugin_node`` checks
            continue
        if node.domain or node.op_type not in ALLOWED:
            yield f"{where}: not on the list"
            continue
        entry = ALLOWED[node.op_type]
        version = onnx.defs.get_schema(node.op_type, opset, "").since_version
        if version > entry.version:
            yield f"{where}: version {version}, the list has {entry.version}"
        for attribute in node.attribute:
            if attribute.name not in entry.attributes:
                yield f"{where}: attribute {attribute.name}"
            elif attribute.name == "sorted" and not attribute.i:
                yield f"{where}: sorted must be 1"
        kind = types.get(node.input[1 if node.op_type == "Where" else 0]) if node.input else None
        if kind is not None and kind not in entry.types:
            yield f"{where}: {onnx.TensorProto.DataType.Name(kind)} data"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by tensor, inferred."""
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {info.name: info.type.tensor_type.elem_type for info in infos} | {
        tensor.name: tensor.data_type for tensor in inferred.graph.initializer
    }
