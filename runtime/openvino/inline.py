"""Local functions of an ONNX graph written out: OpenVINO has no rule for them, and the runtime no ``onnx``.

A node that calls a function of the model becomes the function's nodes, with the call's inputs, outputs and attributes
in place of the function's own (onnx.proto, ``FunctionProto``; a function may call another). Names inside a body get the
call's name in front, so the nodes of a prune can still be told from others. All else is copied byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.onnx_wire import Field, encoded

#: Calls within calls; ours are two deep, and a function that calls itself has no end.
_DEEPEST = 8
#: Nodes of the result: a small file of calls within calls must not become an endless one.
_MOST_NODES = 200_000
#: Operators whose conversion needs their weights as constants of the graph.
_CONSTANTS = ("MatMulNBits", "GatherBlockQuantized")


@dataclass(frozen=True)
class WrittenOut:
    """A graph without functions, whose outside weights are inputs.

    Args:
        data: The model.
        weights: Its outside weights by name, without those that became constants.
        outputs: Names of its outputs, in order.
        empty: Names of its initializers of size [0], which OpenVINO's reader takes for scalars.
    """

    data: bytes
    weights: dict[str, OutsideTensor]
    outputs: tuple[str, ...]
    empty: frozenset[str]


@dataclass(frozen=True)
class _Node:
    op: str
    name: str = ""
    domain: str = ""
    overload: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: dict[str, memoryview] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.domain, self.op, self.overload


@dataclass(frozen=True)
class _Function:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[_Node, ...]
    defaults: dict[str, memoryview]


def write_out(graph: CheckedGraph, values: Callable[[OutsideTensor], bytes]) -> WrittenOut:
    """Write the functions of a model out, and make its outside weights inputs.

    Args:
        graph: The model, walked: nothing in it but initializers of its own lies in other files.
        values: Gives the bytes of the few weights that must be constants while the graph is converted.

    Raises:
        ValueError: This is no ONNX graph, or one that cannot be written out; says why.
        IndexError: It ends early.
    """
    model = list(wire.fields(memoryview(graph.data)))
    graphs = [item for item in model if item.number == onnx.MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("no graph in it")
    versions = dict(_opset(item.value) for item in model if item.number == onnx.MODEL_OPSET)
    functions = dict(_function(item.value, versions) for item in model if item.number == onnx.MODEL_FUNCTIONS)
    items = list(wire.fields(wire.contents(graphs[0].value)))
    writer, outside = _Writer(functions), {tensor.name: tensor for tensor in graph.outside}
    nodes = [writer.written(item) for item in items if item.number == onnx.GRAPH_NODE]
    parts = [bytes(part) for node in nodes for part in node]
    weights, empty = dict[str, OutsideTensor](), set[str]()
    for item in items:
        name = wire.text(wire.part(item.value), onnx.TENSOR_NAME) if item.number == onnx.GRAPH_INITIALIZER else ""
        if name in outside:
            tensor = outside[name]
            if name in writer.constants:
                parts.append(encoded(onnx.GRAPH_INITIALIZER, _constant(tensor, values(tensor))))
            else:
                weights[name] = tensor
                parts.append(encoded(onnx.GRAPH_INPUT, _input(tensor)))
        elif item.number != onnx.GRAPH_NODE:
            parts.append(bytes(item.raw))
            if name and wire.numbers(wire.part(item.value), onnx.TENSOR_DIMS) == [0]:
                empty.add(name)
    own = {domain for domain, _, _ in functions}
    kept = [bytes(item.raw) for item in model if _stays(item, own)]
    content = b"".join([*kept, encoded(onnx.MODEL_GRAPH, b"".join(parts))])
    outputs = tuple(
        wire.text(wire.part(item.value), onnx.VALUE_NAME) for item in items if item.number == onnx.GRAPH_OUTPUT
    )
    return WrittenOut(content, weights, outputs, frozenset(empty))


class _Writer:
    """Turns nodes into the bytes of the nodes they stand for."""

    def __init__(self, functions: dict[tuple[str, str, str], _Function]) -> None:
        self._functions = functions
        self.fronts = set[str]()
        self.constants: set[str] = set()
        self.count = 0

    def written(self, item: Field) -> Iterator[bytes]:
        node = _node(item.value)
        if node.key not in self._functions:
            self._note(node)
            return iter((bytes(item.raw),))
        return (_encode(inner) for inner in self._expand(node, 0))

    def _expand(self, node: _Node, depth: int) -> Iterator[_Node]:
        function = self._functions.get(node.key)
        if function is None:
            self._note(node)
            yield node
            return
        if depth == _DEEPEST:
            raise ValueError(f"calls of {node.op!r} go deeper than {_DEEPEST}")
        front = node.name or node.op
        if front in self.fronts:
            front = f"{front}.{len(self.fronts)}"
        self.fronts.add(front)
        names = dict.fromkeys(function.inputs, "") | dict(zip(function.inputs, node.inputs, strict=False))
        for inner, outer in zip(function.outputs, node.outputs, strict=False):
            if inner in names and outer:
                yield _Node("Identity", f"{front}/{inner}", inputs=(names[inner],), outputs=(outer,))
            elif outer:
                names[inner] = outer
        attributes = function.defaults | node.attributes

        def renamed(name: str) -> str:
            return names.get(name, f"{front}/{name}") if name else ""

        for inner_node in function.nodes:
            moved = replace(
                inner_node,
                name=f"{front}/{inner_node.name or inner_node.op}",
                inputs=tuple(map(renamed, inner_node.inputs)),
                outputs=tuple(map(renamed, inner_node.outputs)),
                attributes=_bound(inner_node.attributes, attributes),
            )
            yield from self._expand(moved, depth + 1)

    def _note(self, node: _Node) -> None:
        self.count += 1
        if self.count > _MOST_NODES:
            raise ValueError(f"written out it has more than {_MOST_NODES} nodes")
        if node.op in _CONSTANTS:
            self.constants |= set(node.inputs[1:])


def _bound(attributes: dict[str, memoryview], passed: dict[str, memoryview]) -> dict[str, memoryview]:
    """Attributes of a body's node: references replaced by what the call gives, those it leaves out left out."""
    bound = {}
    for name, data in attributes.items():
        reference = wire.text(wire.decode(data), onnx.ATTRIBUTE_REFERENCE)
        if not reference:
            bound[name] = data
        elif reference in passed:
            rest = b"".join(
                bytes(part.raw) for part in wire.fields(passed[reference]) if part.number != onnx.ATTRIBUTE_NAME
            )
            bound[name] = memoryview(encoded(onnx.ATTRIBUTE_NAME, name) + rest)
    return bound


def _attributes(values: Sequence[int | memoryview]) -> dict[str, memoryview]:
    return {wire.text(wire.part(value), onnx.ATTRIBUTE_NAME): wire.contents(value) for value in values}


def _node(value: int | memoryview) -> _Node:
    node = wire.part(value)
    name, op, domain, overload = (
        wire.text(node, field) for field in (onnx.NODE_NAME, onnx.NODE_OP, onnx.NODE_DOMAIN, onnx.NODE_OVERLOAD)
    )
    inputs, outputs = tuple(wire.texts(node, onnx.NODE_INPUT)), tuple(wire.texts(node, onnx.NODE_OUTPUT))
    attributes = _attributes(node.get(onnx.NODE_ATTRIBUTE, ()))
    return _Node(op, name, "" if domain == "ai.onnx" else domain, overload, inputs, outputs, attributes)


def _encode(node: _Node) -> bytes:
    parts = [encoded(onnx.NODE_INPUT, name) for name in node.inputs]
    parts += [encoded(onnx.NODE_OUTPUT, name) for name in node.outputs]
    parts += [encoded(onnx.NODE_NAME, node.name), encoded(onnx.NODE_OP, node.op)]
    parts += [encoded(onnx.NODE_ATTRIBUTE, data) for data in node.attributes.values()]
    parts += [encoded(onnx.NODE_DOMAIN, node.domain)] if node.domain else []
    return encoded(onnx.GRAPH_NODE, b"".join(parts))


def _function(value: int | memoryview, versions: dict[str, int]) -> tuple[tuple[str, str, str], _Function]:
    function = wire.part(value)
    for item in function.get(onnx.FUNCTION_OPSET, ()):
        domain, version = _opset(item)
        if versions.get(domain, version) != version:
            raise ValueError(f"a function is of opset {version} of {domain or 'ai.onnx'!r}, not {versions[domain]}")
    domain, name, overload = (
        wire.text(function, field) for field in (onnx.FUNCTION_DOMAIN, onnx.FUNCTION_NAME, onnx.FUNCTION_OVERLOAD)
    )
    inputs, outputs = (tuple(wire.texts(function, field)) for field in (onnx.FUNCTION_INPUT, onnx.FUNCTION_OUTPUT))
    nodes = tuple(_node(item) for item in function.get(onnx.FUNCTION_NODE, ()))
    defaults = _attributes(function.get(onnx.FUNCTION_DEFAULT, ()))
    return (domain, name, overload), _Function(inputs, outputs, nodes, defaults)


def _opset(value: int | memoryview) -> tuple[str, int]:
    opset = wire.part(value)
    domain = wire.text(opset, onnx.OPSET_DOMAIN)
    return "" if domain == "ai.onnx" else domain, wire.number(opset, onnx.OPSET_VERSION)


def _stays(item: Field, own: set[str]) -> bool:
    """Whether a field of the model is copied: no graph, no function, no opset of the functions' domains."""
    if item.number == onnx.MODEL_OPSET:
        return not (own and _opset(item.value)[0] in own - {""})
    return item.number not in (onnx.MODEL_GRAPH, onnx.MODEL_FUNCTIONS)


def _input(weight: OutsideTensor) -> bytes:
    """ValueInfoProto of a weight."""
    dims = b"".join(encoded(1, encoded(1, size)) for size in weight.shape)
    tensor = encoded(1, weight.kind) + encoded(2, dims)
    return encoded(onnx.VALUE_NAME, weight.name) + encoded(2, encoded(1, tensor))


def _constant(weight: OutsideTensor, data: bytes) -> bytes:
    """TensorProto of a weight with its values."""
    dims = b"".join(encoded(onnx.TENSOR_DIMS, size) for size in weight.shape)
    name = encoded(onnx.TENSOR_TYPE, weight.kind) + encoded(onnx.TENSOR_NAME, weight.name)
    return dims + name + encoded(onnx.TENSOR_RAW, data)
