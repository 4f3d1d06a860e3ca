"""Tables of a command's arguments and options in docs/cli.md."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

#: What a value is called; flags take none.
_WORDS = {str: "text", int: "integer", float: "number", Path: "path", bool: ""}


def table(made: Callable[..., Any]) -> str:
    """Arguments, then options, in their order."""
    rows = [_row(each) for kind in (True, False) for each in parameters(made, kind)]
    lines = ["| option | value | default | meaning |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """``text`` inside a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def parameters(made: Callable[..., Any], arguments: bool) -> Iterable[Any]:
    """Arguments or options that are shown; what typer itself passes, such as its context, is neither."""
    for each in get_params_from_function(made).values():
        info = each.default
        if hasattr(info, "param_decls") and not info.hidden and isinstance(info, ArgumentInfo) == arguments:
            yield each


def argument(each: Any) -> str:
    """Name of an argument as a usage line has it; in brackets where it may be left out."""
    name = each.default.metavar or each.name.upper()
    return name if each.default.default is ... else f"[{name}]"


def _row(each: Any) -> tuple[str, str, str, str]:
    info = each.default
    names = [argument(each)] if isinstance(info, ArgumentInfo) else (info.param_decls or ())
    kind, many = _kind(each)
    value = info.metavar if info.metavar and not isinstance(info, ArgumentInfo) else kind
    bounds = [f"{word} {bound}" for word, bound in (("at least", info.min), ("at most", info.max)) if bound is not None]
    values = ", ".join([*filter(None, [value]), *bounds, *["repeatable"] * many])
    return (
        " ".join(f"`{cell(name)}`" for name in names),
        cell(values),
        cell(_default(each)),
        cell(without_escapes(info.help or "")),
    )


def _kind(each: Any) -> tuple[str, bool]:
    """Word for the type, and whether the option may be repeated."""
    given = each.annotation
    if get_origin(given) in (Union, types.UnionType):
        given = next(one for one in get_args(given) if one is not type(None))
    many = get_origin(given) is list
    given = get_args(given)[0] if many else given
    if given not in _WORDS:
        raise ValueError(f"no word for {given!r}, the type of {each.name}: give it one in {__name__}")
    return _WORDS[given], many


def _default(each: Any) -> str:
    default = each.default.default
    if default is ...:
        return "required"
    if default is None or default is False:
        return ""
    if callable(default) or Path(str(default)).is_absolute():
        raise ValueError(f"the default of {each.name} depends on the machine: {default!r}")
    return f"`{default}`"


def without_escapes(text: str) -> str:
    """``text`` without rich's escapes."""
    return text.replace(r"\[", "[")
