"""Whether a node is one that a plugin takes: its attributes, element types and sizes against ``plugin_contract``.

What the graph does not know (a symbolic size, a type no inference gave) is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_graphsurgeon as gs

from luvc_export.core.operators import NAMESPACE, OPERATORS, VERSION, Operator, Tensor
from luvc_export.export.surgeon.graph import kind_of

#: What TensorRT's parser looks a creator up by, beside the operator's name.
IDENTITY = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}
_PYTHON = {"INT": int, "INTS": list, "FLOAT": float, "STRING": str}

_Pair = tuple[str, Tensor, gs.Tensor]


def problems(node: gs.Node) -> list[str]:
    """Where ``node`` differs from the contract of its operator, a line each; none when it fits."""
    operator = OPERATORS.get(node.op)
    if operator is None:
        return [f"{node.op} is no plugin"]
    found = list(_attributes(operator, node.attrs))
    pairs: list[_Pair] = []
    for side, tensors, given in (("inputs", operator.inputs, node.inputs), ("outputs", operator.outputs, node.outputs)):
        wanted = _spread(tensors, len(node.attrs.get("token_axes", ())))
        if len(wanted) != len(given):
            found.append(f"{len(given)} {side}, the contract has {len(wanted)}")
        pairs += [(name, tensor, here) for (name, tensor), here in zip(wanted, given, strict=False)]
    return found or [*_types(pairs), *_sizes(pairs, node.attrs), *_payloads(pairs, node.attrs)]


def _spread(tensors: tuple[Tensor, ...], payloads: int) -> list[tuple[str, Tensor]]:
    """Names and tensors, with one of each payload."""
    found = []
    for tensor in tensors:
        names = [f"{tensor.name}.{place}" for place in range(payloads)] if tensor.payload else [tensor.name]
        found += [(name, tensor) for name in names]
    return found


def _attributes(operator: Operator, given: dict[str, Any]) -> Iterator[str]:
    known = {attribute.name: attribute for attribute in operator.attributes}
    yield from (f"attribute {name} is not in the contract" for name in given if name not in {**known, **IDENTITY})
    for name, text in IDENTITY.items():
        if given.get(name) != text:
            yield f"attribute {name} is {given.get(name)!r}, the contract has {text!r}"
    for name, attribute in known.items():
        if name not in given:
            if not attribute.optional:
                yield f"attribute {name} is missing"
        elif not isinstance(given[name], _PYTHON[attribute.kind]):
            yield f"attribute {name} is {given[name]!r}, the contract has {attribute.kind}"
        elif attribute.choices and given[name] not in attribute.choices:
            yield f"attribute {name} is {given[name]!r}, the contract has {', '.join(attribute.choices)}"


def _types(pairs: list[_Pair]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, wanted, given in pairs:
        kind = kind_of(given)
        if kind is None:
            continue
        seen[name] = str(kind)
        like = wanted.like and name.replace(wanted.name, wanted.like)
        allowed = (seen[like],) if like in seen else wanted.types
        if seen[name] not in allowed:
            yield f"{name} is {kind}, the contract has {', '.join(allowed)}"


def _sizes(pairs: list[_Pair], attributes: dict[str, Any]) -> Iterator[str]:
    known = {name: size for name, size in attributes.items() if isinstance(size, int)}
    for name, wanted, given in pairs:
        if wanted.payload or given.shape is None:
            continue
        if len(given.shape) != len(wanted.shape):
            yield f"{name} has {len(given.shape)} axes, the contract has [{', '.join(wanted.shape)}]"
            continue
        for letter, size in zip(wanted.shape, given.shape, strict=True):
            whole, _, removed = letter.partition("-")
            if not isinstance(size, int) or (removed and whole not in known):
                continue
            expected = known[whole] - known[removed] if removed else known.setdefault(letter, size)
            if size != expected:
                yield f"{name} has {letter} = {size}, expected {expected}"


def _payloads(pairs: list[_Pair], attributes: dict[str, Any]) -> Iterator[str]:
    """Tokens at the axis that is named, and the same sizes but for them after."""
    tensors = {name: given for name, _, given in pairs}
    for place, axis in enumerate(attributes.get("token_axes", ())):
        source, kept = tensors[f"payload.{place}"].shape, tensors[f"kept_payload.{place}"].shape
        values = tensors["values"].shape
        if source is None or kept is None or values is None:
            continue
        if not 1 <= axis < len(source) or source[axis] != values[1]:
            yield f"payload.{place} is {list(source)}, expected {values[1]} tokens at axis {axis}"
            continue
        wanted = [attributes["keep"] if n == axis else size for n, size in enumerate(source)]
        known = [(a, b) for a, b in zip(wanted, kept, strict=False) if isinstance(a, int) and isinstance(b, int)]
        if len(wanted) != len(kept) or any(a != b for a, b in known):
            yield f"kept_payload.{place} is {list(kept)}, expected {wanted}"
