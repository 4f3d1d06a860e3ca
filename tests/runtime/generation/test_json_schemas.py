"""What a rewritten schema allows, the schema allows: judged by an own reading of the few keywords that matter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.errors import UsageError
from luvc_export.runtime.generation.json_schemas import FORMATS, compilable
from luvc_export.runtime.session import Session

KINDS = {"null": type(None), "string": str, "integer": int, "object": dict, "boolean": bool}


def fits(value: Any, schema: Any, root: Any) -> bool:
    """JSON Schema's ``type``, ``const``, ``enum``, ``required``, ``properties``, ``allOf``, ``anyOf``, ``oneOf``, ``$ref``."""  # noqa: E501
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    kind = type(value)
    if "type" in schema and kind is not KINDS[schema["type"]]:
        return False
    if "enum" in schema and not any(one == value and type(one) is kind for one in schema["enum"]):
        return False
    if isinstance(value, dict):
        if any(name not in value for name in schema.get("required", ())):
            return False
        inside = schema.get("properties", {})
        if not all(fits(one, inside.get(name, True), root) for name, one in value.items()):
            return False
    counts = {name: sum(fits(value, one, root) for one in schema.get(name, ())) for name in ("allOf", "anyOf", "oneOf")}
    every = counts["allOf"] == len(schema.get("allOf", ())) and (counts["anyOf"] > 0 or "anyOf" not in schema)
    return every and (counts["oneOf"] == 1 or "oneOf" not in schema)


VALUES = st.sampled_from([None, True, 1, 2, "a", "b"])
OBJECTS = st.dictionaries(st.sampled_from("pqr"), VALUES, max_size=3)
LEAVES = st.sampled_from(
    [{"type": "string"}, {"type": "null"}, {"enum": [1, "a"]}, {"enum": ["b", 2]}, {"type": "integer"}, True]
)
BRANCHES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("object"),
        "properties": st.dictionaries(st.sampled_from("pqr"), LEAVES, max_size=3),
        "required": st.lists(st.sampled_from("pqr"), unique=True, max_size=3),
        "enum": st.lists(VALUES, min_size=1, max_size=2),
    },
)
REFERENCES = st.just({"$ref": "#/$defs/own"})
SCHEMAS = st.fixed_dictionaries(
    {
        "$defs": st.fixed_dictionaries({"own": BRANCHES}),
        "oneOf": st.lists(BRANCHES | REFERENCES, min_size=2, max_size=3),
    },
    optional={"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("pqr"), LEAVES, max_size=2)},
)


@given(SCHEMAS, st.lists(OBJECTS | VALUES, min_size=1, max_size=12))
def test_nothing_fits_that_did_not(schema: Any, values: list[Any]) -> None:
    rewritten = compilable(schema)
    for value in values:
        assert not fits(value, rewritten, rewritten) or fits(value, schema, schema), (value, rewritten)


NULLABLE = {"$defs": {"own": {"type": "string"}}, "oneOf": [{"$ref": "#/$defs/own"}, {"type": "null"}]}
EITHER = {
    "type": "object",
    "properties": {"length": {"type": "integer"}, "radius": {"type": "integer"}},
    "oneOf": [{"required": ["length"]}, {"required": ["radius"]}],
}
TAGGED = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"], "additionalProperties": False}
        for kind in ("cat", "dog")
    ]
}


@pytest.mark.parametrize("schema", [NULLABLE, EITHER, TAGGED])
def test_branches_that_can_be_kept_apart_are(session: Session, schema: Any) -> None:
    assert "oneOf" not in compilable(schema)
    for seed in range(3):
        answer = session.generate(None, "a", json_schema=schema, temperature=99.0, seed=seed, max_new_tokens=40)
        if answer.finish_reason == "stop":
            assert fits(json.loads(answer.text), _with_enums(schema), _with_enums(schema)), answer.text


def _with_enums(schema: Any) -> Any:
    """``const`` as ``enum``."""
    text = json.dumps(schema).replace('"const": "cat"', '"enum": ["cat"]').replace('"const": "dog"', '"enum": ["dog"]')
    return json.loads(text)


def test_what_cannot_be_kept_apart_stays_and_is_refused(session: Session) -> None:
    for schema in (
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "object", "oneOf": [{"required": ["a", "b"]}, {"required": ["a"]}]},
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"not": {}, "oneOf": [{"type": "string"}, {"type": "null"}]},
    ):
        assert compilable(schema) == schema
    with pytest.raises(UsageError, match="oneOf constraints are not supported"):
        session.generate(None, "a", json_schema={"oneOf": [{"type": "integer"}, {"type": "number"}]})


@pytest.mark.parametrize("name", ["path", "password", "binary", "uri-reference", "anything"])
def test_an_unknown_format_is_an_annotation(session: Session, name: str) -> None:
    """As of pydantic's ``Path``, ``SecretStr`` and ``bytes``; a property of that name is no format."""
    schema = {"type": "object", "properties": {"format": {"type": "string", "format": name, "maxLength": 3}}}
    assert compilable(schema)["properties"] == {"format": {"type": "string", "maxLength": 3}}
    closed = {**schema, "required": ["format"], "additionalProperties": False}
    text = session.generate(None, "a", json_schema=closed, temperature=9.0, seed=1).text
    assert len(json.loads(text)["format"]) <= 3


def test_known_formats_and_values_stay() -> None:
    for name in FORMATS:
        assert compilable({"format": name}) == {"format": name}
    kept = {"enum": [{"format": "x"}], "const": {"uniqueItems": False}, "default": {"oneOf": []}}
    assert compilable(kept) == kept
    assert compilable({"items": {"uniqueItems": False}, "uniqueItems": True}) == {"items": {}, "uniqueItems": True}
    assert compilable({"uniqueItems": True, "maxItems": 1}) == {"maxItems": 1}


def test_a_schema_of_itself_ends() -> None:
    own = {"type": "object", "properties": {"a": {"$ref": "#/$defs/o"}}, "required": ["a"]}
    schema = {"$defs": {"o": own}, "oneOf": [own, {"$ref": "#/$defs/o"}, {"$ref": "#/$defs/p"}]}
    assert compilable(schema) == schema
    loop = {"$defs": {"o": {"$ref": "#/$defs/o"}}, "oneOf": [{"$ref": "#/$defs/o"}, {"type": "null"}]}
    assert compilable(loop) == loop


PATTERN, NAMES = {"pattern": "^a"}, {"enum": ["a", "b"]}


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        ({"maxLength": 2.0, "minItems": 1}, {"maxLength": 2, "minItems": 1}),
        ({"then": {}, "else": {}}, {}),
        ({"if": {}}, {}),
        ({"minContains": 2, "maxContains": 3}, {}),
        ({"contains": {}, "minContains": 0}, {}),
        ({"$dynamicAnchor": "a"}, {}),
        ({"propertyNames": PATTERN}, {"patternProperties": {"^a": True}, "additionalProperties": False}),
        ({"propertyNames": NAMES}, {"properties": {"a": True, "b": True}, "additionalProperties": False}),
        ({"propertyNames": {"maxLength": 2}}, {"propertyNames": {"maxLength": 2}}),
        ({"dependentRequired": {"a": ["b"]}},
         {"allOf": [{"anyOf": [{"properties": {"a": False}}, {"required": ["b"]}]}]}),
        ({"dependencies": {"a": {"type": "object"}}},
         {"allOf": [{"anyOf": [{"properties": {"a": False}}, {"type": "object"}]}]}),
        ({"unevaluatedProperties": False}, {"additionalProperties": False, "properties": {}}),
        ({"unevaluatedProperties": False, "additionalProperties": {}}, {"additionalProperties": {}}),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]},
         {"additionalProperties": False, "properties": {"a": True}, "allOf": [{"properties": {"a": {}}}]}),
        ({"unevaluatedItems": False, "prefixItems": [{}]}, {"items": False, "prefixItems": [{}]}),
        ({"unevaluatedItems": False, "items": {}}, {"items": {}}),
        ({"unevaluatedItems": False, "not": {}}, {"unevaluatedItems": False, "not": {}}),
    ],
)  # fmt: skip
def test_keywords_are_written_with_others(schema: Any, plain: Any) -> None:
    assert compilable(schema) == plain


@pytest.mark.parametrize("name", ["not", "contains", "uniqueItems", "propertyNames"])
def test_what_has_no_grammar_is_named(session: Session, name: str) -> None:
    schema = {name: True if name == "uniqueItems" else {"minLength": 1}}
    with pytest.raises(UsageError, match=rf"(?s){name}.*see docs/serving.md"):
        session.generate(None, "a", json_schema=schema)
