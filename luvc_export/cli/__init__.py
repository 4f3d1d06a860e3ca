"""``luvc-export``: one verb a file, each a thin layer on the public API."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from luvc_export.cli.commands import ablate as ablate_verb
from luvc_export.cli.commands import bench as bench_verb
from luvc_export.cli.commands import build as build_verb
from luvc_export.cli.commands import calibrate as calibrate_verb
from luvc_export.cli.commands import demo as demo_verb
from luvc_export.cli.commands import doctor, export, inspect, make_random, plan, run
from luvc_export.cli.commands import pack as pack_verb
from luvc_export.cli.commands import parity as parity_verb
from luvc_export.cli.commands import targets as targets_verb
from luvc_export.errors import LuvcError
from luvc_export.version import VERSION

#: Exit code of a process that SIGINT ended, as shells and typer have it.
_INTERRUPTED = 130

app = typer.Typer(
    name="luvc-export",
    help="Vision-language models to ONNX and TensorRT, with visual-token compression inside the graphs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 a check failed, 2 usage or bad input, 3 this machine cannot.",
)
app.command("demo")(demo_verb.demo)
app.command("plan")(plan.plan)
app.command("export")(export.export)
app.command("build")(build_verb.build)
app.command("pack")(pack_verb.pack)
app.command("targets")(targets_verb.targets)
app.command("run")(run.run)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.command("parity")(parity_verb.parity)
app.command("ablate")(ablate_verb.ablate)
app.command("calibrate")(calibrate_verb.calibrate)
app.command("bench")(bench_verb.bench)
app.command("make-random")(make_random.make_random)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show Python tracebacks.")] = False,
) -> None:
    if version:
        print(f"luvc-export {VERSION}")
        raise typer.Exit


def main() -> None:
    """Run the CLI; errors become a message and an exit code, tracebacks only with ``--debug``."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("interrupted; nothing half-written was left behind", file=sys.stderr)
        raise
    except LuvcError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
            print(f"error: {error.strerror}\n  where: {error.filename or 'the disk'}", file=sys.stderr)
            print("  fix: check the path, its permissions and the space left", file=sys.stderr)
            sys.exit(2)
        print(f"internal error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  fix: run again with --debug and report what it prints", file=sys.stderr)
        sys.exit(1)
