"""docs/cli.md: every command and option, written from the commands themselves.

``python -m luvc_export.cli.reference`` rewrites it; a test compares it. Commands are read as typer declares them, since
what it makes of them (``typer ... utils docs``) changes with its version, and shows examples as coloured text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from luvc_export.cli import app as luvc_export
from luvc_export.cli.reference_table import argument, cell, parameters, table, without_escapes

HEAD = """# Command line

Written by `python -m luvc_export.cli.reference` from `luvc_export/cli`; do not edit.

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
    purposes = [_purpose(name, made) for name, made in commands]
    callback = app.registered_callback and app.registered_callback.callback
    head = HEAD.format(
        help=app.info.help,
        epilog=app.info.epilog,
        commands="".join(purposes),
        options=table(callback) if callback else "",
    )
    return head + "".join(section(name, made) for name, made in commands)


def section(name: str, made: Callable[..., Any]) -> str:
    """One command: usage, help, examples, arguments and options."""
    said, examples = help_of(made)
    usage = " ".join([name, "[OPTIONS]", *(argument(each) for each in parameters(made, True))])
    shown = "\n".join(["```sh", *examples, "```\n\n"]) if examples else ""
    text = "".join(f"{paragraph}\n\n" for paragraph in said)
    return f"\n## {name}\n\n`{usage}`\n\n{text}{shown}{table(made)}"


def help_of(made: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Paragraphs and example commands of a command's help; examples are what it shows dim."""
    paragraphs = (inspect.getdoc(made) or "").split("\n\n")
    shown = [re.fullmatch(r"\[dim\](.*)\[/dim\]", each, re.DOTALL) for each in paragraphs]
    said = [without_escapes(each) for each, dim in zip(paragraphs, shown, strict=True) if not dim]
    return said, [line for dim in shown if dim for line in dim[1].split("\n")]


def _purpose(name: str, made: Callable[..., Any]) -> str:
    return f"| [{name.split()[-1]}](#{name.replace(' ', '-')}) | {cell(help_of(made)[0][0])} |\n"


if __name__ == "__main__":
    written = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
    written.write_text(page(), encoding="utf-8")
