"""What shells and service managers do to a program: closed streams, a folder that is gone, no width."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from luvc_export.cli.commands.run import read_prompt
from luvc_export.cli.failures import explained
from luvc_export.errors import UsageError

CALL = f"{sys.executable} -m luvc_export"


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for it, once it is removed: bad input, no bug of ours."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path("bundle").absolute()
    error = explained(caught.value)
    assert error.exit_code == 2 and error.what == "the working folder is gone"
    assert "cd to a folder that is there" in str(error)


def test_no_standard_output() -> None:
    code, _, errors = shell(f"{CALL} targets >&-")
    assert code == 2 and "standard output is closed" in errors and "/dev/null" in errors


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match=r"standard input is closed(.|\n)*--prompt TEXT"):
        read_prompt("-", as_json=False)


def test_a_terminal_of_no_width_is_one_that_is_not_known() -> None:
    code, shown, _ = shell(f"{CALL} targets", COLUMNS="0")
    assert code == 0 and "cpu" in shown


def test_help_is_drawn_without_the_slow_import() -> None:
    """rich's Markdown is a fifth of its time; who asks for the module afterwards gets the real one."""
    code = (
        "import atexit, sys; from luvc_export.cli import main; sys.argv = ['luvc-export', '--help']\n"
        "def seen():\n"
        "    before = 'markdown_it' in sys.modules\n"
        "    from rich.markdown import Markdown\n"
        "    print(before, Markdown.__module__, 'markdown_it' in sys.modules)\n"
        "atexit.register(seen); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False rich.markdown True"
