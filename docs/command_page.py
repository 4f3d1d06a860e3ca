"""docs/cli.md: every command and option, written from the commands themselves.

``python docs/command_page.py`` rewrites it; a test compares it. Commands are read as typer declares them, since
what it makes of them (``typer ... utils docs``) changes with its version, and shows examples as coloured text.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

from luvc_export.cli import app as luvc_export
from luvc_export.core.files import pages

#: What a value is called; flags take none.
_WORDS = {str: "text", int: "integer", float: "number", Path: "path", bool: ""}


def table(command: Callable[..., Any]) -> str:
    """Arguments, then options, in their order."""
    rows = [_row(each) for kind in (True, False) for each in parameters(command, kind)]
    return pages.table(("option", "value", "default", "meaning"), rows)


def cell(text: str) -> str:
    """``text`` inside a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def parameters(command: Callable[..., Any], arguments: bool) -> Iterable[Any]:
    """Arguments or options that are shown; what typer itself passes, such as its context, is neither."""
    for each in get_params_from_function(command).values():
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
    annotation = each.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    many = get_origin(annotation) is list
    annotation = get_args(annotation)[0] if many else annotation
    if annotation not in _WORDS:
        raise ValueError(f"no word for {annotation!r}, the type of {each.name}: give it one in {__name__}")
    return _WORDS[annotation], many


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


HEAD = """# Command line

Written by `python docs/command_page.py` from `luvc_export/cli`; do not edit.

{help} `luvc-export COMMAND --help` shows the same in a terminal.

{epilog} What went wrong is said on stderr: what, where, what was got and expected, and how to fix it.

| command | purpose |
|---|---|
{commands}
Options before the command:

{options}
`--debug` may stand anywhere. `-h` and `--help` work everywhere; `--install-completion` and `--show-completion` make the
shell complete commands and options.
"""


def page(app: typer.Typer = luvc_export) -> str:
    """docs/cli.md of ``app``.

    Raises:
        ValueError: A type has no word, or a default holds a path of this machine.
    """
    commands = [(f"{app.info.name} {each.name}", each.callback) for each in app.registered_commands if each.callback]
    purposes = [
        f"| [{name.split()[-1]}](#{name.replace(' ', '-')}) | {cell(help_of(command)[0][0])} |\n"
        for name, command in commands
    ]
    callback = app.registered_callback and app.registered_callback.callback
    head = HEAD.format(
        help=app.info.help,
        epilog=app.info.epilog,
        commands="".join(purposes),
        options=table(callback) if callback else "",
    )
    return head + "".join(section(name, command) for name, command in commands)


def section(name: str, command: Callable[..., Any]) -> str:
    """One command: usage, help, examples, arguments and options."""
    paragraphs, examples = help_of(command)
    usage = " ".join([name, "[OPTIONS]", *(argument(each) for each in parameters(command, True))])
    shown = "\n".join(["```sh", *examples, "```\n\n"]) if examples else ""
    text = "".join(f"{paragraph}\n\n" for paragraph in paragraphs)
    return f"\n## {name}\n\n`{usage}`\n\n{text}{shown}{table(command)}"


def help_of(command: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Paragraphs and example commands of a command's help; examples are what it shows dim."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    shown = [re.fullmatch(r"\[dim\](.*)\[/dim\]", each, re.DOTALL) for each in paragraphs]
    prose = [without_escapes(each) for each, dim in zip(paragraphs, shown, strict=True) if not dim]
    return prose, [line for dim in shown if dim for line in dim[1].split("\n")]


if __name__ == "__main__":
    written = Path(__file__).resolve().parent / "cli.md"
    written.write_text(page(), encoding="utf-8")
