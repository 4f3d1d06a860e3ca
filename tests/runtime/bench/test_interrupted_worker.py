"""Ctrl-C reaches the timed processes too: they end, and say nothing."""

from __future__ import annotations

import io
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from luvc_export.runtime.bench import worker
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.confined import frames


class Interrupted(ModuleType):
    """A module during whose import Ctrl-C is pressed."""

    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt


def served() -> bytes:
    """What the process answers that is asked to open a case."""
    asked, replies = io.BytesIO(), io.BytesIO()
    frames.send(asked, {}, pickle.dumps(("open", (BenchCase(Path()), None, None))))
    asked.seek(0)
    worker._serve(asked, replies)
    return replies.getvalue()


def test_ctrl_c_while_it_imports_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "luvc_export.runtime.bench.loaded_case"
    monkeypatch.setitem(sys.modules, name, Interrupted(name))
    assert served() == b""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks on this system")
def test_ctrl_c_while_it_starts_waits_and_is_not_lost() -> None:
    def held() -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())

    passed = False
    with pytest.raises(KeyboardInterrupt), worker._ctrl_c_waits():
        assert held()
        started = subprocess.run(
            [
                sys.executable,
                "-c",
                "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))",
            ],
            capture_output=True,
            check=True,
        )
        signal.raise_signal(signal.SIGINT)
        passed = True
    assert passed and started.stdout.strip() == b"True" and not held()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks on this system")
def test_ctrl_c_that_waited_ends_the_process_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        signal.raise_signal(signal.SIGINT)
        replies = served()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert replies == b""
