"""Plain JSON data of a plan's parts, checked as it is read: what loops count to and arrays are made of has limits.

A ``JsonRecord`` is read and written by the types of its fields: numbers, lists of them, and records in it.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from luvc_export.errors import PlanError

#: TensorRT and TensorRT-RTX refuse TopK above this K (NvInfer.h, ITopKLayer: "K <= 3840"; tried on RTX 1.7.1).
TENSORRT_TOPK_LIMIT = 3840

#: LLM layers or merge passes; a number; units a side (65,536 pixels in patches of 14 are 4,681).
MOST_ENTRIES, MOST, MOST_SIDE = 4096, 2**31, 8192


P = TypeVar("P", bound="JsonRecord")


class JsonRecord:
    """A frozen dataclass that is plain JSON data both ways."""

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
        return cls(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(hint: Any, value: Any, where: str) -> Any:
    """A value as a field of type ``hint`` holds it."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not types.NoneType)
        if value is None:
            return None
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        return tuple(_read(kind, item, f"{where}[{index}]") for index, item in enumerate(entries(value, where)))
    if hint is int:
        return whole(value, where)
    if hint is float:
        return number(value, where)
    return hint.from_json(value, where) if isinstance(hint, type) and issubclass(hint, JsonRecord) else value


def fields_of(part: type[Any], data: object, where: str) -> dict[str, Any]:
    """``data`` as the fields of ``part``, a dataclass: none unknown, none missing that has no default.

    Raises:
        PlanError: It is no JSON object, or fields are unknown or missing.
    """
    if not isinstance(data, dict):
        raise PlanError("a JSON object is expected", where=where, got=type(data).__name__)
    known = {field.name: field for field in dataclasses.fields(part)}
    required = {name for name, field in known.items() if field.default is dataclasses.MISSING}
    unknown, missing = sorted(set(data) - set(known)), sorted(required - set(data))
    if unknown or missing:
        raise PlanError(
            "the plan's fields are wrong",
            where=where,
            got=f"unknown {unknown}, missing {missing}",
            expected=", ".join(known),
        )
    return data


def whole(value: object, where: str) -> int:
    """A whole number, at most 2^31 from 0.

    Raises:
        PlanError: It is another thing.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST or value != int(value):
        raise PlanError(f"expected a whole number of at most {MOST}", where=where, got=repr(value)[:40])
    return int(value)


def number(value: object, where: str) -> float:
    """A finite number.

    Raises:
        PlanError: It is another thing.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PlanError("expected a number", where=where, got=repr(value)[:40])
    return float(value)


def entries(values: object, where: str) -> list[Any]:
    """A list of at most 4,096 entries.

    Raises:
        PlanError: It is no list, or has more.
    """
    if not isinstance(values, list) or len(values) > MOST_ENTRIES:
        got = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
        raise PlanError("expected a list, and not too long", where=where, got=got, expected=f"to {MOST_ENTRIES}")
    return values


#: Types of a part's fields: to read them from its source's words takes longer than to check a plan.
_hints: dict[type[Any], dict[str, Any]] = {}


def _hints_of(kind: type[Any]) -> dict[str, Any]:
    if kind not in _hints:
        _hints[kind] = get_type_hints(kind)
    return _hints[kind]


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
