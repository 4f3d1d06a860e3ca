"""Options as fields: what a user sets is described once, in the metadata of a record's field.

The command line (``cli.options``), Python's keywords (``settled``), batch jobs and docs/cli.md read the field, so that
an option has one name, help, range and default wherever it is asked.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from luvc_export.errors import LuvcError, UsageError, did_you_mean

_Record = TypeVar("_Record")
_KEY = "option"


@dataclass(frozen=True)
class Option:
    """How a field is asked on a command line.

    Args:
        help: A sentence, with the unit and what the default means.
        flags: ``()`` for ``--the-field's-name``; other spellings as typer takes them.
        metavar: What stands for the value; None for the type's name.
        least: Smallest value.
        most: Largest value.
        choices: The words it takes; none where it is not of a few.
        written: Type on the command line, where that is not the field's.
        read: Makes the field's value of what is written; raises a ``UsageError`` that names the option.
        shown: Default as it is written, where ``read`` makes another value of it.
        verbs: Commands that ask for it; None for every one that takes the record.
        argument: It is an argument, without a flag.
        eager: Read before the others.
        callback: Called when it is read; see typer.
        keyword: Name among Python's keywords, where that is not the field's.
        tags: Words by which commands tell options apart, such as those that only a search heeds.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    written: Any = None
    read: Callable[[Any], Any] | None = None
    shown: Any = None
    verbs: Collection[str] | None = None
    argument: bool = False
    eager: bool = False
    callback: Callable[..., Any] | None = None
    keyword: str | None = None
    tags: tuple[str, ...] = ()


def option(default: Any, text: str, *flags: str, hashed: bool | None = None, **more: Any) -> Any:
    """A field with an ``Option`` of help ``text``; ``...`` is no default, a function makes the default."""
    metadata = {_KEY: Option(text, flags, **more)}
    if default is ...:
        return field(metadata=metadata, hash=hashed)
    if callable(default):
        return field(default_factory=default, metadata=metadata, hash=hashed)
    return field(default=default, metadata=metadata, hash=hashed)


def keyword(default: Any, name: str) -> Any:
    """A field that no command asks for, with another name among Python's keywords."""
    return option(default, "", verbs=(), keyword=name)


def keywords_of(record: type) -> dict[str, str]:
    """Fields of a record by their names among Python's keywords; a field's own name is one in any case."""
    described = {each.name: each.metadata.get(_KEY) for each in dataclasses.fields(record)}
    return {one.keyword: name for name, one in described.items() if one and one.keyword} | {
        name: name for name in described
    }


def tagged(record: type, tag: str) -> frozenset[str]:
    """Fields of a record whose options have this tag."""
    return frozenset(
        each.name for each in dataclasses.fields(record) if tag in getattr(each.metadata.get(_KEY), "tags", ())
    )


@dataclass(frozen=True)
class Asked:
    """An option of a record as a command asks for it.

    Attributes:
        name: Of the field.
        option: See ``Option``.
        kind: Type on the command line.
        default: On the command line; ``...`` where it is required.
    """

    name: str
    option: Option
    kind: Any
    default: Any

    @property
    def flag(self) -> str:
        """What errors call it: the last of its spellings."""
        return self.option.flags[-1] if self.option.flags else flag(self.name)

    @property
    def parameter(self) -> str:
        """Its name among a command's parameters, of the flag: two records may have fields of one name."""
        return self.flag.lstrip("-").replace("-", "_")

    def value(self, written: Any) -> Any:
        """The field's value for what the command line has.

        Raises:
            UsageError: It is none of the choices, or see ``Option.read``.
        """
        if self.option.choices and written is not None:
            choice(self.flag, written, self.option.choices)
        if self.option.read is not None:
            return self.option.read(written)
        return tuple(written or ()) if get_origin(_plain(self.kind)) is list else written


def asked_of(record: type, verb: str, base: Any = None) -> list[Asked]:
    """The options of a record that a command asks for, in the order of the fields.

    Args:
        record: A dataclass.
        verb: Name of the command.
        base: An instance whose values are the defaults; None for the record's own.
    """
    options = list[Asked]()
    for each in sorted(dataclasses.fields(record), key=lambda one: one.kw_only is True):  # those of a base stand behind
        described: Option | None = each.metadata.get(_KEY)
        if described is None or (described.verbs is not None and verb not in described.verbs):
            continue
        options.append(asked_by(each, each.name, described.written or _type_of(record, each.name), base))
    return options


def asked_by(described: Field[Any], name: str, kind: Any, base: Any = None) -> Asked:
    """The option of one field, or of one parameter whose default is an ``option``; ``kind`` is its type.

    Of a tuple's type it may be repeated. ``base`` is a record whose value is the default.
    """
    known: Option = described.metadata[_KEY]
    repeated = get_origin(_plain(kind)) is tuple
    default: Any = described.default
    if repeated:
        kind = list[get_args(_plain(kind))[0]] | None  # type: ignore[misc]
    if described.default_factory is not MISSING:
        default = described.default_factory()
    if default is MISSING:
        default = ...
    elif known.read is not None or repeated:
        default = known.shown
    elif base is not None:
        default = getattr(base, name)
    return Asked(name, known, kind, default)


def values_of(record: Any) -> dict[str, Any]:
    """Fields of a record by name, as they are."""
    return {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}


def stated(record: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """Fields that are not what they are by default, of ``names`` alone where they are given."""
    changed = {}
    for each in dataclasses.fields(record):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if (names is None or each.name in names) and getattr(record, each.name) != default:
            changed[each.name] = getattr(record, each.name)
    return changed


def settled(record: type[_Record], base: _Record | None, settings: Mapping[str, Any], where: str) -> _Record:
    """``base``, or the record's defaults, with Python's keywords ``settings``.

    Raises:
        UsageError: The record has no such field; names the nearest.
    """
    known = [each.name for each in dataclasses.fields(record)]  # type: ignore[arg-type]
    for name in settings:
        if name not in known:
            raise UsageError("there is no such option", where=where, got=name, expected=did_you_mean(name, known))
    return record(**settings) if base is None else dataclasses.replace(base, **settings)  # type: ignore[type-var]


def flag(name: str) -> str:
    """The option of parameter ``name``."""
    return "--" + name.replace("_", "-")


def choice(
    flag: str | None,
    value: str,
    known: Collection[str],
    what: str = "unknown choice",
    error: type[LuvcError] = UsageError,
) -> None:
    """Check one of a few words.

    Raises:
        LuvcError: ``error``, if ``value`` is not among ``known``.
    """
    if value not in known:
        raise error(what, where=flag, got=repr(value), expected=did_you_mean(value, known))


def size(text: str | None) -> tuple[int, int] | None:
    """Parse ``HxW``, or one number for a square; None stays None.

    Raises:
        UsageError: It is neither.
    """
    return None if text is None else pair(text, "the image size", "--image-size", "HxW, such as 672x672")


def pair(text: str, what: str, where: str, expected: str) -> tuple[int, int]:
    """Parse two whole numbers with an x between them, or one for both; the rest is the error's.

    Raises:
        UsageError: It is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:[xX]([1-9]\d*))?", text.strip())
    if not match:
        raise UsageError(f"cannot read {what}", where=where, got=text, expected=expected)
    return int(match[1]), int(match[2] or match[1])


def _type_of(record: type, name: str) -> Any:
    """The type of one field: others may be of types that nobody can read, such as one that is imported for mypy."""
    declaring = next(each for each in record.__mro__ if name in inspect.get_annotations(each))
    alone = types.SimpleNamespace(__annotations__={name: inspect.get_annotations(declaring)[name]})
    return get_type_hints(alone, vars(sys.modules[declaring.__module__]))[name]


def _plain(kind: Any) -> Any:
    """``kind`` without None."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind, *others) = [each for each in get_args(kind) if each is not type(None)]
        assert not others, f"an option of one of several types: {kind}, {others}"
    return kind
