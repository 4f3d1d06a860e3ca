"""JSON schemas as the grammar's compiler takes them: what the rewritten schema allows, the schema allows too.

The compiler refuses what it does not know rather than ignore it. What can be written otherwise is: a ``format`` that it
has no grammar for is an annotation (JSON Schema 2020-12, validation 7.2.1), and a ``oneOf`` whose branches can be kept
apart is an ``anyOf``. Keywords that it does not know are written with those it knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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


_SIZES = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
#: Steps along references that lead to references, or into what all must fit.
_MOST_STEPS = 20


def plainer(schema: Mapping[str, Any], root: Any, narrows: bool) -> dict[str, Any]:
    """One schema without keywords that say nothing where they stand, or that others can say.

    Args:
        schema: An object; what is inside of it stays as it is.
        root: The document that it is of.
        narrows: It may also become narrower: what only some branch of it evaluates is then unevaluated.
    """
    result = dict(schema)
    for name in _SIZES:
        if isinstance(value := result.get(name), float) and value.is_integer():
            result[name] = int(value)
    for name in _idle(result, root):
        result.pop(name, None)
    clauses = list(_clauses(result, narrows))
    for name in ("dependentRequired", "dependentSchemas", *(("dependencies",) if narrows else ())):
        if isinstance(result.get(name), dict):
            del result[name]
    if narrows:
        _name_properties(result)
        _evaluate(result, root)
    if clauses and isinstance(before := result.get("allOf", []), list):
        result["allOf"] = [*before, *clauses]
    return result


def holds(schema: Any, names: Sequence[str]) -> bool:
    """Whether one of these keywords is somewhere in it; a property of that name counts too."""
    if isinstance(schema, dict):
        return any(name in schema for name in names) or any(holds(inside, names) for inside in schema.values())
    return isinstance(schema, list) and any(holds(inside, names) for inside in schema)


def resolved(schema: Any, root: Any) -> Any:
    """What a reference inside the document leads to; the schema itself where there is none, or it leads elsewhere."""
    for _ in range(_MOST_STEPS):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        there = root
        for step in reference[2:].split("/"):
            there = there.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(there, dict) else None
        schema = there
    return schema


def _idle(schema: Mapping[str, Any], root: Any) -> Iterator[str]:
    """Names that say nothing without others that are not there."""
    if "if" not in schema:
        yield from ("then", "else")
    elif "then" not in schema and "else" not in schema:
        yield "if"
    if "contains" not in schema:
        yield from ("minContains", "maxContains")
    elif schema.get("minContains") == 0 and "maxContains" not in schema:
        yield from ("contains", "minContains")
    if "$dynamicAnchor" in schema and not holds(root, ("$dynamicRef",)):
        yield "$dynamicAnchor"
    if schema.get("propertyNames") in (True, {}):
        yield "propertyNames"


def _clauses(schema: Mapping[str, Any], narrows: bool) -> Iterator[dict[str, Any]]:
    """What a property asks of the others: it is not there, or they are as it asks."""
    for keyword in ("dependentRequired", "dependentSchemas", *(("dependencies",) if narrows else ())):
        asked = schema.get(keyword)
        for name, needs in asked.items() if isinstance(asked, dict) else ():
            then = {"required": needs} if isinstance(needs, list) else needs
            yield {"anyOf": [{"properties": {name: False}}, then]}


def _name_properties(schema: dict[str, Any]) -> None:
    """``propertyNames`` of one ``pattern`` or of an ``enum``, where nothing else names properties."""
    names = schema.get("propertyNames")
    if not isinstance(names, dict) or any(one in schema for one in ("properties", "patternProperties")):
        return
    others = schema.get("additionalProperties", True)
    if [*names] == ["pattern"]:
        schema["patternProperties"] = {names["pattern"]: others}
    elif [*names] == ["enum"] and isinstance(names["enum"], list):
        schema["properties"] = {name: others for name in names["enum"] if isinstance(name, str)}
    else:
        return
    schema["additionalProperties"] = False
    del schema["propertyNames"]


def _evaluate(schema: dict[str, Any], root: Any) -> None:
    """``unevaluatedProperties`` and ``unevaluatedItems`` as ``additionalProperties`` and ``items`` of the same schema.

    Those reach further, to all that the schema itself does not name; so names that every value is held to are added.
    """
    rest = schema.get("unevaluatedProperties")
    if rest is not None and "unevaluatedProperties" in schema:
        del schema["unevaluatedProperties"]
        fitted = list(_fitted(schema, root))
        if rest not in (True, {}) and not any("additionalProperties" in one for one in [schema, *fitted]):
            schema["additionalProperties"] = rest
            names = [name for one in fitted if isinstance(one.get("properties"), dict) for name in one["properties"]]
            schema["properties"] = {**dict.fromkeys(names, True), **schema.get("properties", {})}
    rest = schema.get("unevaluatedItems")
    if rest is not None and not isinstance(schema.get("items"), list):
        del schema["unevaluatedItems"]
        if rest not in (True, {}):
            schema.setdefault("items", rest)


def _fitted(schema: Mapping[str, Any], root: Any) -> Iterator[Mapping[str, Any]]:
    """Schemas that a value must fit too, by ``allOf`` and references."""
    waiting: list[Any] = [schema]
    for _ in range(_MOST_STEPS):
        if not waiting:
            return
        one = waiting.pop()
        parts = one.get("allOf") if isinstance(one.get("allOf"), list) else []
        for part in [*parts, *([resolved({"$ref": one["$ref"]}, root)] if "$ref" in one else [])]:
            inside = resolved(part, root) if isinstance(part, dict) and [*part] == ["$ref"] else part
            if isinstance(inside, dict):
                yield inside
                waiting.append(inside)
