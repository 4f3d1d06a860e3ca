from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from luvc_export.cli import main
from luvc_export.demo import CHECKPOINT

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``luvc-export plan`` on the bundled model: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["luvc-export", "plan", str(CHECKPOINT), *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return (stop.value.code if isinstance(stop.value.code, int) else 0), out, err

    return run
