"""Whatever ends a verb as an error with an exit code, for people or as JSON."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import typer

from luvc_export.errors import InternalError, LuvcError, MachineError, UsageError

#: What typer and its parser raise on a command line they cannot read; older versions have it in a package of its own.
ParserError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

#: The extra of pyproject.toml that brings a module.
_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnx_graphsurgeon"), "export,cpu"),
    **dict.fromkeys(("onnxslim", "safetensors", "packaging", "huggingface_hub"), "export,cpu"),
    "onnxruntime": "cpu",
    "matplotlib": "report",
    "peft": "lora",
    "openvino": "openvino",
    "tensorrt_rtx": "rtx",
    **dict.fromkeys(("starlette", "uvicorn", "msgspec", "prometheus_client"), "serve"),
    "llguidance": "guided",
    **dict.fromkeys(("ray", "pyarrow"), "ray"),
}


class Interrupted(LuvcError):  # noqa: N818
    """A signal ended the verb."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("interrupted; nothing half-written was left behind")
        self.exit_code = exit_code


def explained(error: Exception) -> LuvcError:
    """``error`` as one of ours: a missing extra, what the system refuses, or a bug."""
    if isinstance(error, LuvcError):
        return error
    if isinstance(error, ParserError):
        context = error.ctx
        where = context.command_path if context else None
        return UsageError(error.format_message(), where=where, fix=f"{where} --help" if where else None)
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return MachineError(
            "this needs packages that are not installed",
            got=f"no module {error.name}",
            fix=f"pip install 'luvc-export[{_EXTRAS[error.name]}]'",
        )
    if isinstance(error, FileNotFoundError) and not error.filename and _no_working_folder():
        return UsageError(
            "the working folder is gone",
            where="the current directory",
            fix="cd to a folder that is there, and run again",
        )
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        return UsageError(
            str(error.strerror),
            where=str(error.filename or "the disk"),
            fix="check the path, its permissions and the space left",
        )
    return InternalError(
        f"internal error: {type(error).__name__}: {error}", fix="run again with --debug and report what it prints"
    )


def _no_working_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def check_streams() -> None:
    """Check that there is something to write answers to.

    Raises:
        UsageError: Standard output is closed.
    """
    if sys.stdout is None:
        raise UsageError(
            "standard output is closed",
            where="the command line",
            got=">&-",
            expected="a terminal, a pipe or a file",
            fix="> /dev/null drops what is printed",
        )


def tell(error: LuvcError, as_json: bool) -> None:
    """Print ``error`` on stderr: lines for people, or one line of JSON."""
    if as_json:
        import json  # --help needs none

        print(json.dumps({"error": error.to_json()}), file=sys.stderr)
    else:
        plain = isinstance(error, InternalError | Interrupted)
        print(error if plain else f"error: {error}", file=sys.stderr)
