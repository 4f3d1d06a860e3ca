"""What a graph file may hold, looked at before any runtime sees it, in the same way for every reader.

Graphs come with bundles and are untrusted. Runtimes trust them: a loop that does not end is run, ``Shape`` with a start
of 2^63 ends ONNX Runtime's process, and a weight is read from whatever file a tensor names, in the graph, in an
attribute or in a function's body. So every node and every tensor is walked; only operators that this project's exports
hold are let through, and only initializers of the graph itself may lie in another file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Message
from luvc_export.core import operators
from luvc_export.errors import BundleError

_INT32, _INT64 = 6, 7
#: Elements of an integer constant that is looked into.
_MOST_INDICES = 2**16
#: Bits of an element by its ONNX type (onnx.proto, TensorProto.DataType): floats, integers, complex, fp8, 4 bits.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8}

#: Operators that exports, calibration and the targets' dialects hold. None runs a graph of its own.
_NAMES = """
Abs Add And ArgMax Attention AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv
Cos CumSum DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Equal Erf Exp Expand Flatten Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish
Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul
MatMulInteger Max Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1
ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RotaryEmbedding Round
ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Swish
Tan Tanh TensorScatter Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
STANDARD = frozenset(_NAMES.split())
_CONTRIBUTED = frozenset({"DynamicQuantizeMatMul", "MatMulNBits", "GatherBlockQuantized"})
_BY_DOMAIN: Mapping[str, frozenset[str]] = {
    "": STANDARD,
    "ai.onnx": STANDARD,
    operators.CONTRIB_DOMAIN: _CONTRIBUTED,
    "trt": frozenset({"TRT_FP4DynamicQuantize"}),
    operators.DOMAIN: frozenset(operators.OPERATORS),
}
#: Domain of functions with a body of standard operators, and how many nodes they may come to when written out.
_FUNCTIONS_DOMAIN, _MOST_NODES = "luvc", 1_000_000
#: Largest number in an attribute: sizes of axes, axes, element types.
_MOST_INT = 2**24
#: Most axes of a tensor, so the largest start or end of ``Shape`` too; the longest shape that is looked into.
_MOST_AXES = 64
#: Elements a stored tensor may have. Multiplying the sizes of a tensor of three million axes does not end in time.
_MOST_STORED = 2**48
#: Elements that a constant shape may ask for, and along an axis; a picture of 4096 x 4096 in patches has 50 million.
_MOST_ELEMENTS = 2**28
#: Operators that make a tensor as large as an input says, and which input.
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Reshape": 1, "Pad": 1, "Resize": 3}


@dataclass(frozen=True)
class OutsideTensor:
    """An initializer whose bytes lie in another file.

    Args:
        name: Of the initializer.
        location: File the graph names.
        offset: Its first byte there.
        kind: ONNX element type.
        shape: Its shape.
        length: Its bytes as the graph says; None where it does not.
    """

    name: str
    location: str
    offset: int
    kind: int
    shape: tuple[int, ...]
    length: int | None = None

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """As many as shape and type take; None for types that are not known here."""
        bits = _BITS.get(self.kind)
        return None if bits is None else (self.count * bits + 7) // 8


def check_graph(data: bytes | memoryview, where: str) -> tuple[OutsideTensor, ...]:
    """Walk a whole graph file: see ``walk_graph``, without the nodes."""
    return walk_graph(data, where)[0]


def walk_graph(data: bytes | memoryview, where: str) -> tuple[tuple[OutsideTensor, ...], list[Message]]:
    """Walk a whole graph file; ``where`` names it in errors.

    Returns:
        Every tensor that lies in another file, each an initializer of the graph; and the graph's nodes.

    Raises:
        BundleError: It is no ONNX graph, or holds what this project's exports never do.
    """
    try:
        model = wire.decode(memoryview(data))
        held = wire.single(model, onnx.MODEL_GRAPH)
        if held is None:
            raise ValueError("no graph in it")
        graph = wire.part(held)
        if onnx.MODEL_TRAINING in model or onnx.GRAPH_SPARSE in graph:
            raise _Refused("training information or sparse tensors")
        functions = _functions(model)
        constants: dict[str, list[int]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        outside = _initializers(graph, constants, shapes)
        for field in onnx.GRAPH_VALUES:
            _check_values(wire.parts(graph, field))
        nodes = wire.parts(graph, onnx.GRAPH_NODE)
        _check_nodes(nodes, functions, constants, shapes)
        return outside, nodes
    except (ValueError, IndexError, OverflowError) as error:
        raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
    except _Refused as refused:
        raise BundleError(
            "this graph holds something that exports of luvc-export never do, so it is not run",
            where=where,
            got=str(refused),
            fix="do not use this bundle; export it again from the checkpoint",
        ) from refused


class _Refused(Exception):  # noqa: N818
    """What a graph must not hold, for people."""


def _initializers(
    graph: Message, constants: dict[str, list[int]], shapes: dict[str, tuple[int, ...]]
) -> tuple[OutsideTensor, ...]:
    outside, names = [], set[str]()
    for tensor in wire.parts(graph, onnx.GRAPH_INITIALIZER):
        name = wire.text(tensor, onnx.TENSOR_NAME)
        if name in names:
            raise _Refused(f"two initializers called {name!r}")
        names.add(name)
        if _is_outside(tensor):
            outside.append(_outside(tensor, name))
            continue
        _check_data(tensor, name)
        shapes[name] = tuple(wire.numbers(tensor, onnx.TENSOR_DIMS))
        if (values := _values(tensor)) is not None:
            constants[name] = values
    shapes |= {tensor.name: tensor.shape for tensor in outside}
    return tuple(outside)


def _check_data(tensor: Message, name: str) -> None:
    """A tensor must hold as many bytes as its shape says: ONNX Runtime makes room for the shape first."""
    count, bits = _elements(tensor, name), _BITS.get(wire.number(tensor, onnx.TENSOR_TYPE))
    if bits is None or onnx.TENSOR_STRINGS in tensor:
        raise _Refused(f"tensor {name!r} of type {wire.number(tensor, onnx.TENSOR_TYPE)}")
    raw = wire.single(tensor, onnx.TENSOR_RAW)
    needed = (count * bits + 7) // 8
    if raw is not None:
        held = len(wire.contents(raw))
    else:  # at least a byte for each that is written; what is left out is refused by shape
        typed = (value for field in onnx.TENSOR_TYPED for value in tensor.get(field, ()))
        held = sum(len(value) if isinstance(value, memoryview) else 8 for value in typed)
        needed = min(needed, (count * min(bits, 8) + 7) // 8)
    if held < needed or (raw is not None and held != needed):
        raise _Refused(f"tensor {name!r} of {held} bytes for a shape of {needed}")


def _check_values(values: Iterable[Message]) -> None:
    for value in values:
        inner, name = value, wire.text(value, onnx.VALUE_NAME)
        for field in onnx.VALUE_SHAPE:
            held = wire.single(inner, field)
            inner = wire.part(held) if held is not None else {}
        if len(inner.get(onnx.SHAPE_DIM, ())) > _MOST_AXES:
            raise _Refused(f"{name!r} of {len(inner[onnx.SHAPE_DIM]):,} axes")


def _elements(tensor: Message, name: str) -> int:
    """Elements of a tensor: axes and sizes are bounded before they are multiplied."""
    dims, count = wire.numbers(tensor, onnx.TENSOR_DIMS), 1
    if len(dims) > _MOST_AXES:
        raise _Refused(f"tensor {name!r} of {len(dims):,} axes")
    for size in dims:
        count = count * size if size >= 0 else -1
        if not 0 <= count <= _MOST_STORED:
            raise _Refused(f"tensor {name!r} of shape {dims}")
    return count


def _is_outside(tensor: Message) -> bool:
    return wire.number(tensor, onnx.TENSOR_LOCATION) != 0 or onnx.TENSOR_EXTERNAL in tensor


def _outside(tensor: Message, name: str) -> OutsideTensor:
    pairs: dict[str, str] = {}
    for entry in wire.parts(tensor, onnx.TENSOR_EXTERNAL):
        key = wire.text(entry, 1)
        if key in pairs:
            raise _Refused(f"weight {name!r} says {key!r} twice")
        pairs[key] = wire.text(entry, 2)
    if wire.number(tensor, onnx.TENSOR_LOCATION) != 1 or not set(pairs) <= {"location", "offset", "length", "checksum"}:
        raise _Refused(f"weight {name!r} lies elsewhere in a way no export says: {sorted(pairs)}")
    offset, length = _count(pairs.get("offset", "0")), pairs.get("length")
    _elements(tensor, name)
    kind, dims = wire.number(tensor, onnx.TENSOR_TYPE), tuple(wire.numbers(tensor, onnx.TENSOR_DIMS))
    stated = None if length is None else _count(length)
    outside = OutsideTensor(name, pairs.get("location", ""), offset, kind, dims, stated)
    if outside.bytes is not None and stated not in (None, outside.bytes):
        raise _Refused(f"weight {name!r} of {stated} bytes for a shape of {outside.bytes}")
    return outside


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _Refused(f"{text[:40]!r} where a number of bytes should be")
    return int(text)


def _functions(model: Message) -> dict[str, int]:
    """Functions by name, with the nodes each comes to when those it calls are written out."""
    bodies: dict[str, list[Message]] = {}
    for function in wire.parts(model, onnx.MODEL_FUNCTIONS):
        name = wire.text(function, onnx.FUNCTION_NAME)
        if wire.text(function, onnx.FUNCTION_DOMAIN) != _FUNCTIONS_DOMAIN or name in bodies:
            raise _Refused(f"a function {wire.text(function, onnx.FUNCTION_DOMAIN)}.{name} twice or of another domain")
        bodies[name] = wire.parts(function, onnx.FUNCTION_NODE)
        for attribute in wire.parts(function, onnx.FUNCTION_DEFAULT):
            _check_attribute(attribute, name)
    sizes: dict[str, int] = {}
    for name in bodies:
        _size(name, bodies, sizes, ())
    for body in bodies.values():
        _check_nodes(body, sizes, {}, {})
    return sizes


def _size(name: str, bodies: dict[str, list[Message]], sizes: dict[str, int], above: tuple[str, ...]) -> int:
    if name in above or len(above) > 16:
        raise _Refused(f"function {name!r} calls itself")
    if name not in sizes:
        called = [wire.text(node, onnx.NODE_OP) for node in bodies[name] if onnx.NODE_DOMAIN in node]
        inner = sum(_size(one, bodies, sizes, (*above, name)) for one in called if one in bodies)
        sizes[name] = min(len(bodies[name]) + inner, 2 * _MOST_NODES)
    return sizes[name]


def _check_nodes(
    nodes: Iterable[Message],
    functions: Mapping[str, int],
    constants: dict[str, list[int]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    total = 0
    for node in nodes:
        kind, domain = wire.text(node, onnx.NODE_OP), wire.text(node, onnx.NODE_DOMAIN)
        own = domain == _FUNCTIONS_DOMAIN and kind in functions
        if not own and kind not in _BY_DOMAIN.get(domain, frozenset()):
            raise _Refused(f"operator {domain + '.' if domain else ''}{kind}")
        total += functions[kind] if own else 1
        if total > _MOST_NODES:
            raise _Refused(f"more than {_MOST_NODES:,} nodes")
        axis = 0
        for value in node.get(onnx.NODE_ATTRIBUTE, ()):
            attribute = wire.part(value)
            _check_attribute(attribute, kind)
            if wire.text(attribute, onnx.ATTRIBUTE_NAME) == "axis":
                axis = wire.number(attribute, onnx.ATTRIBUTE_INT)
            if kind == "Constant":
                _remember(attribute, wire.texts(node, onnx.NODE_OUTPUT), constants)
        if kind in _SHAPED or kind == "Range":
            _check_shape(kind, wire.texts(node, onnx.NODE_INPUT), constants)
        if kind in INDEXED:
            wrong = _index_problem(kind, wire.texts(node, onnx.NODE_INPUT), axis, constants, shapes)
            if wrong is not None:
                raise _Refused(wrong)


def _check_attribute(attribute: Message, kind: str) -> None:
    for field in onnx.ATTRIBUTE_REFUSED:
        if field in attribute:
            raise _Refused(f"a graph, a list of tensors or a type in an attribute of {kind}")
    most = _MOST_AXES if kind == "Shape" else _MOST_INT
    if kind != "Constant":  # its numbers are data, and may be the end of a slice that takes all
        for value in (wire.number(attribute, onnx.ATTRIBUTE_INT), *wire.numbers(attribute, onnx.ATTRIBUTE_INTS)):
            if not -most <= value <= most:
                raise _Refused(f"{value} in attribute {wire.text(attribute, onnx.ATTRIBUTE_NAME)!r} of {kind}")
    tensor = wire.single(attribute, onnx.ATTRIBUTE_TENSOR)
    if tensor is not None:
        if _is_outside(held := wire.part(tensor)):
            raise _Refused(f"a tensor of {kind} that lies in another file")
        _check_data(held, kind)


def _remember(attribute: Message, outputs: list[str], constants: dict[str, list[int]]) -> None:
    name, values = wire.text(attribute, onnx.ATTRIBUTE_NAME), None
    if name == "value" and onnx.ATTRIBUTE_TENSOR in attribute:
        values = _values(wire.part(attribute[onnx.ATTRIBUTE_TENSOR][0]))
    elif name == "value_ints":
        values = wire.numbers(attribute, onnx.ATTRIBUTE_INTS)
    elif name == "value_int":
        values = [wire.number(attribute, onnx.ATTRIBUTE_INT)]
    if values is not None and outputs:
        constants[outputs[0]] = values


def _values(tensor: Message) -> list[int] | None:
    """Values of an integer tensor that is not long; None for others."""
    kind = wire.number(tensor, onnx.TENSOR_TYPE)
    if kind not in (_INT32, _INT64) or _elements(tensor, "") > _MOST_INDICES:
        return None
    field = onnx.TENSOR_INT64 if kind == _INT64 else onnx.TENSOR_INT32
    if field in tensor:
        return wire.numbers(tensor, field)
    raw = wire.single(tensor, onnx.TENSOR_RAW)
    if raw is None:
        return None
    data = wire.contents(raw)
    size, letter = (8, "q") if kind == _INT64 else (4, "i")
    return list(struct.unpack(f"<{len(data) // size}{letter}", data[: len(data) // size * size]))


def _check_shape(kind: str, inputs: list[str], constants: Mapping[str, list[int]]) -> None:
    if kind == "Range":
        ends = [constants[name][0] for name in inputs if constants.get(name)]
        if any(abs(value) > _MOST_ELEMENTS for value in ends):
            raise _Refused(f"Range with an end of {max(ends, key=abs)}")
        return
    place = _SHAPED[kind]
    asked = constants.get(inputs[place]) if place < len(inputs) else None
    if asked and len(asked) > _MOST_AXES:
        raise _Refused(f"{kind} to a shape of {len(asked):,} axes")
    if asked and math.prod(abs(value) or 1 for value in asked) > _MOST_ELEMENTS:
        raise _Refused(f"{kind} to {asked}")


#: Operators whose second input holds indices; of the first three along an axis of the first input.
_ALONG_AXIS = ("Gather", "GatherElements", "ScatterElements")
INDEXED = frozenset((*_ALONG_AXIS, "GatherND", "ScatterND", "Slice", "Reshape"))
_STEPS = 4


def _index_problem(
    kind: str,
    inputs: Sequence[str],
    axis: int,
    constants: Mapping[str, Sequence[int]],
    shapes: Mapping[str, Sequence[int]],
) -> str | None:
    """What is wrong with a node's constant indices; None if nothing is, or they are not constant.

    Some runtimes do not look, and write beside the memory. OpenVINO's CPU plug-in takes what Gather and Scatter are
    given; an index of 2^31 was read, and ended the process cases later. What is computed on the way is not seen here
    (docs/security.md).

    Args:
        kind: One of ``INDEXED``.
        inputs: Names of the node's inputs.
        axis: Its attribute, 0 where it has none.
        constants: Values of integer constants by name.
        shapes: Of initializers by name.
    """
    values = [list(constants.get(name, ())) for name in inputs]
    if kind == "Slice":
        return "Slice with a step of 0" if len(values) > _STEPS and 0 in values[_STEPS] else None
    if len(values) < 2 or not values[1]:
        return None
    low, high = min(values[1]), max(values[1])
    if kind == "Reshape":
        return _reshape(values[1], shapes.get(inputs[0]))
    shape = shapes.get(inputs[0]) if kind in _ALONG_AXIS else None
    if shape is not None and not -len(shape) <= axis < len(shape):
        return f"{kind} along axis {axis} of a shape of {len(shape)}"
    size = _MOST_ELEMENTS if shape is None else shape[axis]
    if -size <= low and high < size:
        return None
    return f"{kind} of index {high if high >= size else low} from {size:,}"


def _reshape(asked: list[int], shape: Sequence[int] | None) -> str | None:
    """A size is left open once at most, and copied (0) from an axis that is there; elements stay as many."""
    if min(asked) < -1 or asked.count(-1) > 1:
        return f"Reshape to {asked[:8]}"
    if shape is None:
        return None
    if any(size == 0 and place >= len(shape) for place, size in enumerate(asked)):
        return f"Reshape of {list(shape)} to {asked[:8]}"
    sizes = [shape[place] if size == 0 else size for place, size in enumerate(asked)]
    held, wanted = math.prod(shape), math.prod(size for size in sizes if size != -1)
    fits = (wanted and held % wanted == 0) if -1 in sizes else held == wanted
    return None if fits else f"Reshape of {list(shape)} to {asked[:8]}"
