"""Records and plain JSON data: dataclasses are written as JSON and read back by the types of their fields.

Files are strangers'. What loops count to and arrays are made of has limits, far above every model there is and far
below what hangs or fills memory; an error says which field of which file is wrong. Two kinds of reader share this:
``JsonRecord``, a part of a plan, reads numbers as they are meant (``2.0`` is a whole number) and leaves words and flags
to the part itself (``wrong_choices``); ``from_json_data``, for manifests, packs, studies and the like, takes values of
the type of their field, within the limits that ``limits.json`` has for the field's name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from luvc_export.errors import BundleError, LuvcError, PlanError

R = TypeVar("R")
P = TypeVar("P", bound="JsonRecord")


class _Kind(NamedTuple):
    """How a kind of file says that its fields are wrong.

    Attributes:
        error: What is raised.
        no_object: Its text where there is no JSON object.
        wrong_fields: Its text where fields are unknown or missing.
        lists_known: It lists the fields that there are.
        fills_in: Fields may be missing whose default a function makes.
    """

    error: type[LuvcError]
    no_object: str
    wrong_fields: str
    lists_known: bool
    fills_in: bool


_PLAN = _Kind(PlanError, "a JSON object is expected", "the plan's fields are wrong", True, False)
_RECORD = _Kind(BundleError, "expected a JSON object", "the fields are wrong", False, True)


def fields_of(record: type[Any], data: object, where: str, kind: _Kind = _PLAN) -> dict[str, Any]:
    """``data`` as the fields of ``record``, a dataclass: none unknown, none missing that has no default.

    Raises:
        LuvcError: ``kind.error``: it is no JSON object, or fields are unknown or missing.
    """
    if not isinstance(data, dict):
        raise kind.error(kind.no_object, where=where, got=type(data).__name__)
    known = {field.name: field for field in dataclasses.fields(record)}
    required = {
        name
        for name, field in known.items()
        if field.init and field.default is dataclasses.MISSING
        if not (kind.fills_in and field.default_factory is not dataclasses.MISSING)
    }
    unknown, missing = sorted(set(data) - set(known)), sorted(required - set(data))
    if unknown or missing:
        got, expected = f"unknown {unknown}, missing {missing}", ", ".join(known) if kind.lists_known else None
        raise kind.error(kind.wrong_fields, where=where, got=got, expected=expected)
    return data


#: Types of a record's fields: to read them from its source's words takes longer than to check a plan.
_hints: dict[type[Any], dict[str, Any]] = {}


def _hints_of(record: type[Any]) -> dict[str, Any]:
    if record not in _hints:
        _hints[record] = get_type_hints(record)
    return _hints[record]


def _without_none(hint: Any) -> Any:
    """The one type, apart from None, that a field may have."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not types.NoneType)
    return hint


#: Entries of a plan's lists: LLM layers or merge passes; a number; units a side (65,536 pixels in patches of 14 are
#: 4,681).
MOST_ENTRIES, MOST, MOST_SIDE = 4096, 2**31, 8192


class JsonRecord:
    """A frozen dataclass that is plain JSON data both ways: a part of a plan."""

    #: Fields that are written only where they say something, so that versions that know them not go on reading.
    written_where_used: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` turns back into an equal part."""
        names = (field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        data = {name: _plain(getattr(self, name)) for name in names}
        return {name: value for name, value in data.items() if value or name not in self.written_where_used}

    @classmethod
    def from_json(cls: type[P], data: object, where: str) -> P:
        """Build from ``to_json`` data; what has a default may be missing. Words and flags are ``wrong_choices``'s.

        Raises:
            PlanError: Fields are unknown, missing, or of another type.
        """
        hints, values = _hints_of(cls), fields_of(cls, data, where)
        return cls(**{name: _part(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _part(hint: Any, value: Any, where: str) -> Any:
    """A value as a field of a plan's part of type ``hint`` holds it."""
    kind = _without_none(hint)
    if value is None and kind is not hint:
        return None
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_part(inner, item, f"{where}[{index}]") for index, item in enumerate(_entries(value, where)))
    if kind is int:
        return _whole(value, where)
    if kind is float:
        return _number(value, where)
    return kind.from_json(value, where) if isinstance(kind, type) and issubclass(kind, JsonRecord) else value


def _whole(value: object, where: str) -> int:
    """A whole number, at most 2^31 from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST or value != int(value):
        raise PlanError(f"expected a whole number of at most {MOST}", where=where, got=repr(value)[:40])
    return int(value)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PlanError("expected a number", where=where, got=repr(value)[:40])
    return float(value)


def _entries(values: object, where: str) -> list[Any]:
    if not isinstance(values, list) or len(values) > MOST_ENTRIES:
        got = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
        raise PlanError("expected a list, and not too long", where=where, got=got, expected=f"to {MOST_ENTRIES}")
    return values


def wrong_choices(part: object) -> list[str]:
    """A line for each field that may hold a few words (``Literal``) or a bool, and holds something else."""
    lines = []
    for name, hint in _hints_of(type(part)).items():
        value, words = getattr(part, name, None), [word for word in get_args(hint) if isinstance(word, str)]
        if words and value not in words:
            lines.append(f"{name}: got {value!r}, expected one of {', '.join(words)}")
        if hint is bool and not isinstance(value, bool):
            lines.append(f"{name}: got {value!r}, expected true or false")
    return lines


def below(name: str, problems: Iterable[str]) -> list[str]:
    """Lines of a part's problems, each under the part's name."""
    return [f"{name}.{problem}" for problem in problems]


def from_json_data(cls: type[R], data: object, where: str) -> R:
    """Build dataclass ``cls`` from a JSON object, descending by type hints; ``where`` names the file in errors.

    Fields that follow from others (``init=False``) are written for whoever reads the JSON; they need not be there.

    Raises:
        BundleError: A missing or unknown field, a value of the wrong type, or one that contradicts the others.
        PlanError: A plan in it is none.
    """
    if issubclass(cls, JsonRecord):
        return typing.cast(R, cls.from_json(data, where))
    fields, hints = fields_of(cls, data, where, _RECORD), _hints_of(cls)
    values = {name: _value(hints[name], value, f"{where}: {name}", name) for name, value in fields.items()}
    follows = sorted(each.name for each in dataclasses.fields(typing.cast(Any, cls)) if not each.init)
    record = cls(**{name: value for name, value in values.items() if name not in follows})
    for name in follows:
        if name in values and values[name] != getattr(record, name):
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
        return hint._make(_value(tuple[tuple(_hints_of(hint).values())], value, where, field))  # type: ignore
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
#: Entries of a list or an object, and characters of a text.
ENTRIES, CHARACTERS = 200_000, 65_536
#: Fields whose texts are written into prompts and may hold line ends.
_PROMPT = frozenset({"marker", "written", "after_pictures", "at_end", "opening", "between", "closing", "template"})
_PROMPT |= {"prompts", "system", "instruction", "query", "document", "nothing"}


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


def printable(text: str) -> bool:
    """Whether a text holds no control characters: some move a terminal's cursor, others turn its text around."""
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in text)
