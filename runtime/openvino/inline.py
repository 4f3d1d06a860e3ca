"""Local functions of an ONNX graph written out: OpenVINO has no rule for them, and the runtime no ``onnx``.

A node that calls a function of the model becomes the function's nodes, with the call's inputs, outputs and attributes
in place of the function's own (onnx.proto, ``FunctionProto``; a function may call another). Names inside a body get the
call's name in front, so the nodes of a prune can still be told from others. All else is copied byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from luvc_export.runtime.openvino.wire import Field, fields, integers, packed

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTIONS = 7, 8, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_VALUE_NAME = 1
_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT, _FUNCTION_NODE = 1, 4, 5, 7
_FUNCTION_OPSET, _FUNCTION_DOMAIN, _FUNCTION_DEFAULT, _FUNCTION_OVERLOAD = 9, 10, 11, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_OVERLOAD = 1, 2, 3, 4, 5, 7, 8
_ATTRIBUTE_NAME, _ATTRIBUTE_REFERENCE = 1, 21
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = (5, 10, 22, 23), (6, 11)
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 9, 13, 14

#: Calls within calls; ours are two deep, and a function that calls itself has no end.
_DEEPEST = 8
#: Nodes of the result: a small file of calls within calls must not become an endless one.
_MOST_NODES = 200_000
#: Operators whose conversion needs their weights as constants of the graph.
_CONSTANTS = ("MatMulNBits", "GatherBlockQuantized")


@dataclass(frozen=True)
class Outside:
    """An initializer whose bytes lie in another file.

    Args:
        kind: ONNX element type.
        shape: Its shape.
        location: The file's name as the graph gives it.
        offset: Where it begins there.
        length: Its bytes; 0 where the graph does not say.
    """

    kind: int
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class WrittenOut:
    """A graph without functions, whose outside weights are inputs.

    Args:
        data: The model.
        weights: Its outside weights by name, without those that became constants.
        outputs: Names of its outputs, in order.
        bodies: For each function call, the name in front of its nodes and the function's name.
    """

    data: bytes
    weights: dict[str, Outside]
    outputs: tuple[str, ...]
    bodies: dict[str, str]


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


def write_out(data: bytes, values: Callable[[str, Outside], bytes]) -> WrittenOut:
    """Write the functions of a serialized model out, and make its outside weights inputs.

    Args:
        data: The model.
        values: Gives the bytes of the few weights that must be constants while the graph is converted.

    Raises:
        ValueError: This is no ONNX graph, or one that cannot be written out; says why.
    """
    model = list(fields(memoryview(data)))
    graphs = [item for item in model if item.number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("no graph in it")
    versions = dict(_opset(item) for item in model if item.number == _MODEL_OPSET)
    functions = dict(_function(item.message(), versions) for item in model if item.number == _MODEL_FUNCTIONS)
    graph = list(fields(graphs[0].message()))
    writer = _Writer(functions)
    nodes = [writer.encoded(item) for item in graph if item.number == _GRAPH_NODE]
    parts = [bytes(part) for written in nodes for part in written]
    weights: dict[str, Outside] = {}
    for item in graph:
        if item.number == _GRAPH_SPARSE:
            raise ValueError("it has sparse weights")
        outside = _outside(item) if item.number == _GRAPH_INITIALIZER else None
        if outside is not None:
            name, weight = outside
            if name in writer.constants:
                parts.append(packed(_GRAPH_INITIALIZER, _constant(name, weight, values(name, weight))))
            else:
                weights[name] = weight
                parts.append(packed(_GRAPH_INPUT, _input(name, weight)))
        elif item.number != _GRAPH_NODE:
            parts.append(bytes(item.raw))
    own = {domain for domain, _, _ in functions}
    kept = [bytes(item.raw) for item in model if _stays(item, own)]
    made = b"".join([*kept, packed(_MODEL_GRAPH, b"".join(parts))])
    outputs = tuple(_name(item) for item in graph if item.number == _GRAPH_OUTPUT)
    return WrittenOut(made, weights, outputs, writer.bodies)


class _Writer:
    """Turns nodes into the bytes of the nodes they stand for."""

    def __init__(self, functions: dict[tuple[str, str, str], _Function]) -> None:
        self._functions = functions
        self.bodies: dict[str, str] = {}
        self.constants: set[str] = set()
        self.count = 0

    def encoded(self, item: Field) -> Iterator[bytes]:
        node = _node(item.message())
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
        if f"{front}/" in self.bodies:
            front = f"{front}.{len(self.bodies)}"
        self.bodies[f"{front}/"] = node.op
        names = dict.fromkeys(function.inputs, "") | dict(zip(function.inputs, node.inputs, strict=False))
        for inner, outer in zip(function.outputs, node.outputs, strict=False):
            if inner in names and outer:
                yield _Node("Identity", f"{front}/{inner}", inputs=(names[inner],), outputs=(outer,))
            elif outer:
                names[inner] = outer
        given = function.defaults | node.attributes

        def renamed(name: str) -> str:
            return names.get(name, f"{front}/{name}") if name else ""

        for inner_node in function.nodes:
            moved = replace(
                inner_node,
                name=f"{front}/{inner_node.name or inner_node.op}",
                inputs=tuple(map(renamed, inner_node.inputs)),
                outputs=tuple(map(renamed, inner_node.outputs)),
                attributes=_bound(inner_node.attributes, given),
            )
            yield from self._expand(moved, depth + 1)

    def _note(self, node: _Node) -> None:
        self.count += 1
        if self.count > _MOST_NODES:
            raise ValueError(f"written out it has more than {_MOST_NODES} nodes")
        if node.op in _CONSTANTS:
            self.constants |= set(node.inputs[1:])
        for attribute in node.attributes.values():
            _check_inside(attribute)


def _bound(attributes: dict[str, memoryview], given: dict[str, memoryview]) -> dict[str, memoryview]:
    """Attributes of a body's node: references replaced by what the call gives, those it leaves out left out."""
    found = {}
    for name, data in attributes.items():
        parts = list(fields(data))
        if any(part.number in _ATTRIBUTE_GRAPHS for part in parts):
            raise ValueError(f"a function's node has a graph of its own ({name!r})")
        reference = next((part.text() for part in parts if part.number == _ATTRIBUTE_REFERENCE), "")
        if not reference:
            found[name] = data
        elif reference in given:
            rest = b"".join(bytes(part.raw) for part in fields(given[reference]) if part.number != _ATTRIBUTE_NAME)
            found[name] = memoryview(packed(_ATTRIBUTE_NAME, name) + rest)
    return found


def _check_inside(attribute: memoryview) -> None:
    """Tensors among attributes must hold their values: no file, and no address, is read for them."""
    for part in fields(attribute):
        if part.number in _ATTRIBUTE_TENSORS:
            if any(item.number in (_TENSOR_EXTERNAL, _TENSOR_LOCATION) for item in fields(part.message())):
                raise ValueError("a node's attribute takes its values from outside the graph")
        elif part.number in _ATTRIBUTE_GRAPHS:
            for item in fields(part.message()):
                if item.number == _GRAPH_NODE:
                    for inner in _node(item.message()).attributes.values():
                        _check_inside(inner)
                elif item.number == _GRAPH_SPARSE or (item.number == _GRAPH_INITIALIZER and _outside(item)):
                    raise ValueError("an inner graph takes its values from outside")


def _node(data: memoryview) -> _Node:
    texts: dict[int, list[str]] = {}
    attributes = {}
    for item in fields(data):
        if item.number == _NODE_ATTRIBUTE:
            name = next((part.text() for part in fields(item.message()) if part.number == _ATTRIBUTE_NAME), "")
            attributes[name] = item.message()
        elif item.number in (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_DOMAIN, _NODE_OVERLOAD):
            texts.setdefault(item.number, []).append(item.text())
    name, op, domain, overload = (
        texts.get(number, [""])[-1] for number in (_NODE_NAME, _NODE_OP, _NODE_DOMAIN, _NODE_OVERLOAD)
    )
    inputs, outputs = tuple(texts.get(_NODE_INPUT, ())), tuple(texts.get(_NODE_OUTPUT, ()))
    return _Node(op, name, "" if domain == "ai.onnx" else domain, overload, inputs, outputs, attributes)


def _encode(node: _Node) -> bytes:
    parts = [packed(_NODE_INPUT, name) for name in node.inputs]
    parts += [packed(_NODE_OUTPUT, name) for name in node.outputs]
    parts += [packed(_NODE_NAME, node.name), packed(_NODE_OP, node.op)]
    parts += [packed(_NODE_ATTRIBUTE, bytes(data)) for data in node.attributes.values()]
    parts += [packed(_NODE_DOMAIN, node.domain)] if node.domain else []
    return packed(_GRAPH_NODE, b"".join(parts))


def _function(data: memoryview, versions: dict[str, int]) -> tuple[tuple[str, str, str], _Function]:
    texts: dict[int, list[str]] = {}
    nodes, defaults = [], {}
    for item in fields(data):
        if item.number == _FUNCTION_NODE:
            nodes.append(_node(item.message()))
        elif item.number == _FUNCTION_DEFAULT:
            name = next((part.text() for part in fields(item.message()) if part.number == _ATTRIBUTE_NAME), "")
            defaults[name] = item.message()
        elif item.number == _FUNCTION_OPSET:
            domain, version = _opset(item)
            if versions.get(domain, version) != version:
                raise ValueError(f"a function is of opset {version} of {domain or 'ai.onnx'!r}, not {versions[domain]}")
        elif item.number in (_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD):
            texts.setdefault(item.number, []).append(item.text())
    key = tuple(texts.get(number, [""])[-1] for number in (_FUNCTION_DOMAIN, _FUNCTION_NAME, _FUNCTION_OVERLOAD))
    inputs, outputs = tuple(texts.get(_FUNCTION_INPUT, ())), tuple(texts.get(_FUNCTION_OUTPUT, ()))
    return (key[0], key[1], key[2]), _Function(inputs, outputs, tuple(nodes), defaults)


def _opset(item: Field) -> tuple[str, int]:
    parts = {part.number: part for part in fields(item.message())}
    domain = parts[1].text() if 1 in parts else ""
    return "" if domain == "ai.onnx" else domain, parts[2].integer() if 2 in parts else 0


def _stays(item: Field, own: set[str]) -> bool:
    """Whether a field of the model is copied: no graph, no function, no opset of the functions' domains."""
    if item.number == _MODEL_OPSET:
        return not (own and _opset(item)[0] in own - {""})
    return item.number not in (_MODEL_GRAPH, _MODEL_FUNCTIONS)


def _outside(item: Field) -> tuple[str, Outside] | None:
    parts: dict[int, list[Field]] = {}
    for part in fields(item.message()):
        parts.setdefault(part.number, []).append(part)
    if integers(parts.get(_TENSOR_LOCATION, [])) != [1]:
        if _TENSOR_EXTERNAL in parts:
            raise ValueError("a weight is inside and outside at once")
        return None
    told = {}
    for entry in parts.get(_TENSOR_EXTERNAL, []):
        pair = {part.number: part.text() for part in fields(entry.message())}
        told[pair.get(1, "")] = pair.get(2, "")
    name = parts[_TENSOR_NAME][0].text() if _TENSOR_NAME in parts else ""
    kind = integers(parts.get(_TENSOR_TYPE, []))
    shape = tuple(integers(parts.get(_TENSOR_DIMS, [])))
    offset, length = int(told.get("offset", "0")), int(told.get("length", "0"))
    return name, Outside(kind[0] if kind else 0, shape, told.get("location", ""), offset, length)


def _name(item: Field) -> str:
    """Name of a ValueInfoProto."""
    return next((part.text() for part in fields(item.message()) if part.number == _VALUE_NAME), "")


def _input(name: str, weight: Outside) -> bytes:
    """ValueInfoProto of a weight."""
    dims = b"".join(packed(1, packed(1, size)) for size in weight.shape)
    tensor = packed(1, weight.kind) + packed(2, dims)
    return packed(1, name) + packed(2, packed(1, tensor))


def _constant(name: str, weight: Outside, data: bytes) -> bytes:
    """TensorProto of a weight with its values."""
    dims = b"".join(packed(_TENSOR_DIMS, size) for size in weight.shape)
    return dims + packed(_TENSOR_TYPE, weight.kind) + packed(_TENSOR_NAME, name) + packed(_TENSOR_RAW, data)
