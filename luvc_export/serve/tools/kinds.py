"""Which arguments of a tool are texts, where a form writes them without quotes; and bare words as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luvc_export.runtime.generation.json_schemas import resolved

_WORDS = {"True": "true", "False": "false", "None": "null"}


def is_text(schema: Mapping[str, Any], name: str) -> bool:
    """Whether an argument can only be a text; one that the schema does not name can be anything."""
    properties = schema.get("properties")
    one = resolved(properties.get(name), schema) if isinstance(properties, Mapping) else None
    if not isinstance(one, Mapping):
        return False
    if "enum" in one or "const" in one:
        values = one.get("enum", [one.get("const")])
        return isinstance(values, list) and all(isinstance(value, str) for value in values)
    return one.get("type") == "string"


def may_be_text(schema: Mapping[str, Any], name: str) -> bool:
    """Whether an argument may be a text too."""
    properties = schema.get("properties")
    one = resolved(properties.get(name), schema) if isinstance(properties, Mapping) else None
    kinds = one.get("type") if isinstance(one, Mapping) else None
    return not isinstance(kinds, str | list) or "string" in ([kinds] if isinstance(kinds, str) else kinds)


def json_word(word: str) -> str:
    """A bare word as JSON: a number, true, false or null, also as Python writes it; a text where it is none."""
    word = word.strip()
    try:
        json.loads(word, parse_constant=_no_number)
        return word
    except (ValueError, RecursionError):
        return _WORDS.get(word) or json.dumps(word, ensure_ascii=False)


def _no_number(name: str) -> None:
    """Python's reader takes NaN and Infinity, which are no JSON."""
    raise ValueError(name)
