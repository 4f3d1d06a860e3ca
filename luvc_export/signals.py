"""Ends from outside: SIGTERM and SIGHUP unwind the stack as SIGINT does; a child ends with its parent."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: What asks a process to end; Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, see prctl(2)

#: Exit codes of a process that one of them ended, as shells have them.
ENDED = tuple(128 + number for number in ENDING)


@contextmanager
def ended_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as SIGINT does, so that nothing half-written stays behind."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:  # not SIGINT, which Python handles, nor what nohup ignores
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with(parent: int) -> None:
    """End when process ``parent`` does, where the system can say so (``prctl``, Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it went before we asked
            sys.exit(128 + signal.SIGTERM)
