"""Keywords of a JSON schema that the grammar's compiler does not know, written with those it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
