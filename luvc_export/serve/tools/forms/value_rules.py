"""Rules of values that are not written as JSON: of types, choices, lists and objects of a schema.

Sizes, ranges and patterns are not held there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from luvc_export.runtime.generation.json_schemas import resolved
from luvc_export.serve.tools.rules import Rules, ordered

_NUMBERS = {
    "integer": ("INTEGER", "/-?(0|[1-9][0-9]{0,17})/"),
    "number": ("NUMBER", r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,3})?/"),
}
#: Schemas inside of schemas that are held.
_DEEPEST = 12


class Notation(NamedTuple):
    """How values are written.

    Args:
        name: Of its rules.
        text: The rule of any text.
        quoted: The rule of one text.
        key: A key, with what stands behind it.
        open: What opens an object.
        close: What closes one.
        comma: Between two.
        true: A word.
        false: A word.
        null: A word.
        inside: Of values inside of an object; this one where there is none.
    """

    name: str
    text: Callable[[Rules], str]
    quoted: Callable[[Rules, str], str]
    key: Callable[[str], str]
    open: str
    close: str
    comma: str
    true: str
    false: str
    null: str
    inside: Any = None

    @property
    def of_values(self) -> Notation:
        """Of values inside."""
        return self if self.inside is None else self.inside


def object_rule(
    rules: Rules, notation: Notation, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, depth: int = 0
) -> str:
    """The rule of an object: its properties in their order, those that are not required or not there.

    Args:
        rules: Gets what it needs.
        notation: How it is written.
        schema: Its schema.
        root: The document that the schema is of.
        depth: Of the schema in it.
    """
    root = schema if root is None else root
    inside = notation.of_values
    pairs = [
        (
            rules.fresh(
                notation.name, f"{rules.text(notation.key(name))} {value_rule(rules, inside, one, root, depth + 1)}"
            ),
            needed,
        )
        for name, one, needed in ordered(schema)
    ]
    opened, closed = rules.text(notation.open), rules.text(notation.close)
    if not pairs:
        named = isinstance(schema.get("properties"), Mapping) or schema.get("additionalProperties") is False
        return f"{opened} {closed}" if named and not depth else f"{opened} {_any_pairs(rules, notation)} {closed}"
    first, more, comma = "", "", rules.text(notation.comma)
    for pair, needed in reversed(pairs):
        alone, beside = f"{pair} {more}", f"{comma} {pair} {more}"
        if not needed:
            alone = f"({alone}) | {first}" if first else f"({alone})?"
            beside = f"({beside}) | {more}" if more else f"({beside})?"
        first, more = rules.fresh(notation.name, alone), rules.fresh(notation.name, beside)
    return f"{opened} {first} {closed}"


def value_rule(rules: Rules, notation: Notation, schema: Any, root: Mapping[str, Any], depth: int) -> str:
    """The rule of a value of a schema; of any value where the schema says nothing that is held."""
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if isinstance(reference, str):
        key = notation.name, id(root), reference
        if key not in rules.references:
            rules.references[key] = rules.fresh(notation.name, "")
            inside = resolved(schema, root)
            rules.rule(rules.references[key], value_rule(rules, notation, inside, root, depth + 1))
        return rules.references[key]
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return _anything(rules, notation)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values and all(not isinstance(one, list | dict) for one in values):
        return "(" + " | ".join(_word(rules, notation, one) for one in values) + ")"
    for several in ("anyOf", "oneOf"):
        if isinstance(schema.get(several), list) and schema[several]:
            each = [value_rule(rules, notation, one, root, depth + 1) for one in schema[several]]
            return "(" + " | ".join(each) + ")"
    kinds = schema.get("type")
    if isinstance(kinds, list) and kinds:
        own = dict.fromkeys(
            kind for kind in kinds if isinstance(kind, str)
        )  # each once: kinds inside of kinds multiply
        each = [value_rule(rules, notation, {**schema, "type": kind}, root, depth + 1) for kind in own]
        return "(" + " | ".join(each) + ")"
    if kinds == "string":
        return notation.text(rules)
    if kinds in ("integer", "number"):
        return rules.terminal(*_NUMBERS[kinds])
    if kinds == "boolean":
        return f"({rules.text(notation.true)} | {rules.text(notation.false)})"
    if kinds == "null":
        return rules.text(notation.null)
    if kinds == "array":
        item = rules.fresh(notation.name, value_rule(rules, notation, schema.get("items"), root, depth + 1))
        return f'"[" ({item} ({rules.text(notation.comma)} {item})*)? "]"'
    return object_rule(rules, notation, schema, root, depth) if kinds == "object" else _anything(rules, notation)


def _word(rules: Rules, notation: Notation, value: Any) -> str:
    if isinstance(value, str):
        return notation.quoted(rules, value)
    words = {True: notation.true, False: notation.false, None: notation.null}
    return rules.text(words[value] if value is None or isinstance(value, bool) else json.dumps(value))


def _any_pairs(rules: Rules, notation: Notation) -> str:
    key = rules.terminal("KEY", "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/")
    quoted = notation.key("key").partition("key")
    pair = f"{rules.text(quoted[0])} {key}" if quoted[0] else key
    pair += f" {rules.text(quoted[2])} {_anything(rules, notation.of_values)}"
    return f"({pair} ({rules.text(notation.comma)} {pair})*)?"


def _anything(rules: Rules, notation: Notation) -> str:
    name = f"{notation.name}_any"
    if not rules.has(name):
        rules.rule(name, "")
        number, comma = rules.terminal(*_NUMBERS["number"]), rules.text(notation.comma)
        words = " | ".join(map(rules.text, (notation.true, notation.false, notation.null)))
        listed = f'"[" ({name} ({comma} {name})*)? "]"'
        pairs = f"{rules.text(notation.open)} {_any_pairs(rules, notation)} {rules.text(notation.close)}"
        rules.rule(name, f"{notation.text(rules)} | {number} | {words} | {listed} | {pairs}")
    return name
