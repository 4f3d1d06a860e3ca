"""Ctrl-C reaches the timed processes too: they end, and say nothing."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from luvc_export.runtime.bench import worker
from luvc_export.runtime.bench.case import Case


class Interrupted(ModuleType):
    """A module during whose import Ctrl-C is pressed."""

    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt


def test_ctrl_c_while_it_imports_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "luvc_export.runtime.bench.subject"
    monkeypatch.setitem(sys.modules, name, Interrupted(name))
    before = signal.getsignal(signal.SIGINT)
    near, far = multiprocessing.Pipe()
    try:
        worker._serve(Case(Path(), None, 1, 1, 1), None, far)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not near.poll()


def test_it_starts_without_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert before is not signal.SIG_IGN
    with worker._deaf():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
    seen = []

    def elsewhere() -> None:
        with worker._deaf():
            seen.append(signal.getsignal(signal.SIGINT))

    other = threading.Thread(target=elsewhere)
    other.start()
    other.join()
    assert seen == [before]
