"""``luvc-export``: one verb a file, each a thin layer on the public API."""

from __future__ import annotations

import io
import os
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from luvc_export import signals
from luvc_export.cli import failures
from luvc_export.version import VERSION

#: Exit code where a reader left (``| head -1``): of a process that SIGPIPE ended, as shells have it.
_PIPE_CLOSED = 141

#: In the order of the help; each is a module of ``commands`` and the function of its name.
VERBS = (
    *("demo", "plan", "export", "build", "pack", "targets", "run", "embed", "search", "serve", "batch", "inspect"),
    *("doctor", "parity", "ablate", "calibrate", "bench", "triton", "trial", "make-random", "new-family"),
)


@cache
def application(verb: str | None = None) -> typer.Typer:
    """The commands; where ``verb`` is named, the modules of all others are not imported, and they are help alone."""
    verbs = typer.Typer(
        name="luvc-export",
        help="Vision-language models to ONNX and TensorRT, with visual-token compression inside the graphs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes: 0 ok, 1 a check failed, 2 usage or bad input, 3 this machine cannot, 70 a bug of this "
        "program. With --json, an error is one line of JSON on stderr.",
    )
    verbs.callback()(_options)
    for each in VERBS:
        name = each.replace("-", "_")
        if verb in (None, each):
            verbs.command(each)(getattr(import_module(f"luvc_export.cli.commands.{name}"), name))
        else:
            verbs.command(each, help=_purpose(name))(lambda: None)
    return verbs


def _purpose(name: str) -> str:
    """The first line of a command's help, without importing what it needs."""
    text = Path(__file__).with_name("commands").joinpath(f"{name}.py").read_text(encoding="utf-8")
    return text.partition(f"\ndef {name}(")[2].split('"""')[1].split("\n")[0]


def _without_markdown() -> None:
    """Draw help without importing rich's Markdown: a fifth of its time, and help in rich's own markup has none."""
    if "rich.markdown" not in sys.modules:
        stub = sys.modules["rich.markdown"] = ModuleType("rich.markdown")
        stub.Markdown = type("Markdown", (), {})  # type: ignore[attr-defined]
        import_module("typer.rich_utils")
        del sys.modules["rich.markdown"]


def __getattr__(name: str) -> typer.Typer:
    if name == "app":
        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"luvc-export {VERSION}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show Python tracebacks.")] = False,
) -> None:
    """Options before the verb."""


def main() -> None:
    """Run the CLI; errors become a message and an exit code, tracebacks only with ``--debug``.

    With ``--json``, an error is one line of JSON, the last on stderr: ``{"error": LuvcError.to_json()}``.
    """
    debug, as_json = "--debug" in sys.argv, "--json" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding that lacks a character escapes it
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("COLUMNS", "").strip() == "0":  # shells without a terminal say so; nothing would fit in it
        del os.environ["COLUMNS"]
    try:
        failures.check_streams()
        completes = any(name.endswith("_COMPLETE") for name in os.environ)  # a shell asks, with no verb among its words
        if not sys.argv[1:] or {"--help", "-h"} & {*sys.argv}:
            _without_markdown()
        app = application(None if completes else next((word for word in sys.argv[1:] if word[:1] != "-"), "--help"))
        with signals.ended_cleanly():
            sys.exit(app(standalone_mode=False) if as_json else app())
    except SystemExit as stop:
        if stop.code == 1 and isinstance(stop.__context__, BrokenPipeError):  # what typer and rich make of it
            sys.exit(_PIPE_CLOSED)
        if isinstance(stop.code, int) and stop.code in signals.ENDED:
            failures.tell(failures.Interrupted(stop.code), as_json)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(_PIPE_CLOSED)
    except Exception as error:
        if debug:
            raise
        explanation = failures.explained(error)
        failures.tell(explanation, as_json)
        sys.exit(explanation.exit_code)
