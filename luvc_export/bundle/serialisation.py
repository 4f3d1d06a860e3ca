"""Plain data from JSON into frozen dataclasses and named tuples, checked by field; how large numbers and texts may be.

What is beyond the limits of ``luvc.json`` and ``pack.json``, which go by the name of a field, would reach numpy, a
runtime or a loop as a size: far above every model there is, far below what hangs or fills memory.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
import unicodedata
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from luvc_export.core.plan import Plan
from luvc_export.errors import BundleError

R = TypeVar("R")


def from_json_data(cls: type[R], data: object, where: str) -> R:
    """Build dataclass ``cls`` from a JSON object, descending by type hints; ``where`` names the file in errors.

    Fields that follow from others (``init=False``) are written for whoever reads the JSON; they need not be there.

    Raises:
        BundleError: A missing or unknown field, a value of the wrong type, or one that contradicts the others.
    """
    if cls is Plan:
        return typing.cast(R, Plan.from_json(data, where))
    if not isinstance(data, dict):
        raise BundleError("expected a JSON object", where=where, got=type(data).__name__)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, cls))}
    required = {
        name
        for name, item in fields.items()
        if item.init and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(data) - set(fields)), sorted(required - set(data))
    if unknown or missing:
        raise BundleError("the fields are wrong", where=where, got=f"unknown {unknown}, missing {missing}")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], value, f"{where}: {name}", name) for name, value in data.items()}
    record = cls(**{name: value for name, value in values.items() if fields[name].init})
    for name in sorted(name for name in values if not fields[name].init):
        if values[name] != getattr(record, name):
            raise BundleError(
                "a field contradicts those it follows from",
                where=f"{where}: {name}",
                got=values[name],
                expected=getattr(record, name),
            )
    return record


def _value(hint: Any, value: Any, where: str, field: str = "") -> Any:
    """A value of ``hint``; ``field`` names the field it is in, for ``beyond``."""
    if wrong := beyond(field, value):
        raise BundleError("a value is beyond its limits", where=where, got=repr(value)[:80], expected=wrong)
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, tuple) and isinstance(value, list):
        return hint._make(_value(tuple[tuple(get_type_hints(hint).values())], value, where, field))  # type: ignore
    if dataclasses.is_dataclass(hint):
        return from_json_data(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return (
            value if type(value) in args else _value(next(a for a in args if a is not type(None)), value, where, field)
        )
    if origin is Literal:
        return _one_of(args, value, where)
    if origin is dict and isinstance(value, dict):
        for key in value:
            if not printable(key):
                raise BundleError("a name holds control characters", where=where, got=repr(key)[:80])
        return {str(key): _value(args[1], item, f"{where}.{key}", field) for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(_value(kind, item, where, field) for kind, item in zip(inner, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise BundleError("a value has the wrong type", where=where, got=repr(value)[:80], expected=str(hint))


def _one_of(known: tuple[Any, ...], value: Any, where: str) -> Any:
    if any(type(value) is type(one) and value == one for one in known):
        return value
    raise BundleError(
        "a value is none that this version knows",
        where=where,
        got=repr(value)[:80],
        expected=" or ".join(map(repr, known)),
        fix="if a newer luvc-export wrote it, install that version here, or export again with this one",
    )


#: Least and largest number of a field (``limits.json``); those that are not named have ``DEFAULT``.
NUMBERS: dict[str, list[float]] = json.loads(Path(__file__).with_name("limits.json").read_text(encoding="utf-8"))
DEFAULT = (-(2**62), 2**62)
#: Pixels of all images of one picture or video: 400 MB of uint8. A 7B model's largest video has 116 million.
PIXELS = 2**27
#: Entries of a list or an object, and characters of a text.
ENTRIES, CHARACTERS = 200_000, 65_536
#: Fields whose texts are written into prompts and may hold line ends.
_PROMPT = frozenset({"marker", "written", "after_pictures", "at_end", "opening", "between", "closing", "template"})


def beyond(field: str, value: object) -> str | None:
    """What is wrong with the size of a value of ``field``; None if nothing is."""
    if isinstance(value, str):
        if len(value) > CHARACTERS:
            return f"at most {CHARACTERS:,} characters"
        if field not in _PROMPT and not printable(value):
            return "a text without control characters"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = NUMBERS.get(field, DEFAULT)
        if not low <= value <= high:  # also what is not a number
            return f"{low} to {high}"
    elif isinstance(value, list | dict) and len(value) > ENTRIES:
        return f"at most {ENTRIES:,} entries"
    return None


def check_pixels(frames: int, size: tuple[int, int], where: str) -> None:
    """Refuse ``frames`` of ``size`` (height, width) that would fill memory before a graph sees one image.

    Raises:
        BundleError: More than ``PIXELS`` at once.
    """
    height, width = size
    if frames * height * width > PIXELS:
        raise BundleError(
            "a plan sees more pixels at once than any model",
            where=where,
            got=f"{frames} x {height}x{width}",
            expected=f"at most {PIXELS:,} pixels",
        )


def printable(text: str) -> bool:
    """Whether a text holds no control characters: some move a terminal's cursor, others turn its text around."""
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in text)
