"""The command line, run in this process."""

from __future__ import annotations

import sys

import pytest
from cli_words import Cli

from luvc_export.cli import main
from luvc_export.runtime.bench import machine


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``luvc-export ARGS`` in this process, on a terminal of 140 columns: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["luvc-export", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "140")
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return (stop.value.code if isinstance(stop.value.code, int) else 0), out, err

    return run


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """``bench`` measures what this machine can do with less: ``runtime/bench`` tests the figures."""
    monkeypatch.setattr(machine, "_SIDE", 256)
    monkeypatch.setattr(machine, "_BYTES", 2**24)
