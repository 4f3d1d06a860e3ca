"""JSON schemas as the grammar's compiler takes them: what the rewritten schema allows, the schema allows too.

The compiler refuses what it does not know rather than ignore it. What can be written otherwise is: a ``format`` that it
has no grammar for is an annotation (JSON Schema 2020-12, validation 7.2.1), and a ``oneOf`` whose branches can be kept
apart is an ``anyOf``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luvc_export.runtime.generation.schema_keywords import holds, plainer, resolved

#: Formats with a grammar (llguidance, parser/src/json/formats.rs).
FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid")
)
#: Keywords whose value is a schema, a list of them, or some by name.
_ONE = frozenset(
    ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
) | {"unevaluatedItems", "unevaluatedProperties"}
_SEVERAL = frozenset(("allOf", "anyOf", "items", "oneOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))


def compilable(schema: Any) -> Any:
    """``schema``, rewritten where the compiler would refuse it without need; anything else as it is.

    Raises:
        RecursionError: It is too deep.
    """
    narrow = _rewritten(schema, schema, True)
    # what is narrower inside of these could make them wider, or two of their branches look apart
    return _rewritten(schema, schema, False) if holds(narrow, ("oneOf", "not", "if")) else narrow


def _rewritten(schema: Any, root: Any, narrows: bool) -> Any:
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "format" and isinstance(value, str) and value not in FORMATS:
            continue
        if name == "uniqueItems" and (value is False or _short(schema)):
            continue
        if name in _NAMED and isinstance(value, dict):
            value = {key: _rewritten(inside, root, narrows) for key, inside in value.items()}
        elif name in _SEVERAL and isinstance(value, list):
            value = [_rewritten(inside, root, narrows) for inside in value]
        elif name in _ONE:
            value = _rewritten(value, root, narrows)
        result[name] = value
    result = plainer(result, root, narrows)
    branches = result.get("oneOf")
    if narrows and isinstance(branches, list) and "anyOf" not in result:
        apart = _apart(branches, result, root)
        if apart is not None:
            del result["oneOf"]
            result["anyOf"] = apart
    return result


def _short(schema: Mapping[str, Any]) -> bool:
    most = schema.get("maxItems")
    return isinstance(most, int) and most <= 1


def _apart(branches: Sequence[Any], around: Mapping[str, Any], root: Any) -> list[Any] | None:
    """Branches of which no value fits two, none of them wider than it was; None where that cannot be seen.

    Where nothing else keeps two apart, a branch goes without a property that the other requires.
    """
    shown = [resolved(branch, root) for branch in branches]
    if not all(isinstance(one, dict) for one in shown):
        return None
    result = []
    for number, own in enumerate(shown):
        without: dict[str, Any] = {}
        for place, other in enumerate(shown):
            if place == number or _disjoint(own, other, root):
                continue
            if "object" not in (own.get("type"), other.get("type"), around.get("type")):
                return None
            spare = [name for name in _required(other) if name not in _required(own)]
            if not spare:
                return None
            without[spare[0]] = False
        branch = branches[number]
        result.append({"allOf": [branch, {"properties": without}]} if without else branch)
    return result


def _disjoint(first: Any, second: Any, root: Any, depth: int = 4) -> bool:
    """No value fits both: other types, other values, or other values of a property that both require."""
    first, second = resolved(first, root), resolved(second, root)
    if not isinstance(first, dict) or not isinstance(second, dict):
        return False
    kinds, others = _types(first), _types(second)
    if kinds and others and not kinds & others and {"integer", "number"} - (kinds | others):
        return True
    values, other_values = _values(first), _values(second)
    if values is not None and other_values is not None:
        return not any(one == other for one in values for other in other_values)
    inside, other_inside = first.get("properties"), second.get("properties")
    if not isinstance(inside, dict) or not isinstance(other_inside, dict):
        return False
    if {"object"} not in (kinds, others) or not depth:
        return False
    both = [name for name in _required(first) if name in _required(second)]
    return any(_disjoint(inside.get(name), other_inside.get(name), root, depth - 1) for name in both)


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    return frozenset(one for one in kinds if isinstance(one, str))


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _required(schema: Mapping[str, Any]) -> list[str]:
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
