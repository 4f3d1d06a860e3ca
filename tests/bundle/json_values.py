"""Values for any field of a bundle's JSON: of its type, made from the records, and of every other type.

A new field of a record is reached without a line here.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

#: Sizes that loops, arrays and files have met, and what lies beyond every limit.
NUMBERS = (-(10**9), -2, -1, 0, 1, 2, 3, 255, 256, 4096, 65_537, 2**24, 10**9, 2**31, 2**53, 2**62, 2**63, 2**70)
FLOATS = (-1.0, 0.0, -0.0, 1e-300, 0.5, 1.0, 4.0, 1e9, 1e300, float("inf"), float("-inf"), float("nan"))
#: Names without the parts that code splits them into, longer than a file system takes, or no name at all.
TEXTS = (
    "", ".", "..", "/", "a/b", "a\\b", "../luvc.json", "0", "-1", "0.", ".q_proj", "q_proj", "x.q_proj", "0.q_proj",
    "99999999999999999999.q_proj", "²", "²⁷.q_proj", "a" * 300, "ä" * 200, "\ud800", "\0", "a\0b", "\x1b[2J",
    "{seconds}", "{", "{0}", "{x!r}", "{seconds:>99999999}", "%s", "<image>", "key", "place", "cpu", "vision.onnx",
    "luvc.json", "half", "float32", "fp32", "null", "nan",
)  # fmt: skip

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(FLOATS),
    st.sampled_from(TEXTS),
    st.lists(st.sampled_from([*NUMBERS, *TEXTS, None]), max_size=4),
    st.dictionaries(st.sampled_from(TEXTS), st.sampled_from([*NUMBERS, *TEXTS, None]), max_size=3),
)


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Plain data of a field's type, whatever its size."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return of_record(typing.cast(type, hint))
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if one is types.NoneType else of_type(one) for one in args))
    if origin is Literal:
        return st.sampled_from(args)
    if origin is dict:
        return st.dictionaries(st.sampled_from(TEXTS), of_type(args[1]), max_size=3)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return st.lists(of_type(args[0]), max_size=4)
        return st.tuples(*map(of_type, args)).map(list)
    return {
        bool: st.booleans(),
        int: st.sampled_from(NUMBERS),
        float: st.sampled_from([*FLOATS, *NUMBERS]),
        str: st.sampled_from(TEXTS),
    }.get(hint, anything)


def of_record(record: type) -> st.SearchStrategy[dict[str, Any]]:
    """Plain data with every field that a record needs, some of the others, and each of its type."""
    hints = get_type_hints(record)
    needed: dict[str, st.SearchStrategy[Any]] = {}
    others: dict[str, st.SearchStrategy[Any]] = {}
    for field in dataclasses.fields(record):
        if field.init:
            bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            (needed if bare else others)[field.name] = of_type(hints[field.name])
    return st.fixed_dictionaries(needed, optional=others)


Place = tuple[str | int, ...]


def places(hint: Any, data: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every place in plain data that a type describes, and the type there."""
    yield at, hint
    origin, args = get_origin(hint), get_args(hint)
    if data is None:
        return
    if origin in (typing.Union, types.UnionType):
        hint = next(
            (one for one in args if one is not types.NoneType and not isinstance(data, str | int | float)), None
        )
        origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(data, dict):
        hints = get_type_hints(typing.cast(type, hint))
        for name, kind in hints.items():
            if name in data:
                yield from places(kind, data[name], (*at, name))
            elif name in {field.name for field in dataclasses.fields(typing.cast(Any, hint)) if field.init}:
                yield (*at, name), kind
    elif origin is dict and isinstance(data, dict):
        for name, value in data.items():
            yield from places(args[1], value, (*at, name))
    elif origin is tuple and isinstance(data, list | tuple):
        kinds = [args[0]] * len(data) if args[-1] is Ellipsis else args
        for index, (kind, value) in enumerate(zip(kinds, data, strict=False)):
            yield from places(kind, value, (*at, index))


def changed(data: Any, at: Place, value: Any) -> Any:
    """A copy of plain data with another value at one place."""
    if not at:
        return value
    copy: Any = dict(data) if isinstance(data, dict) else [*data]
    old = copy.get(at[0]) if isinstance(copy, dict) else copy[at[0]]
    copy[at[0]] = changed(old, at[1:], value)
    return copy
