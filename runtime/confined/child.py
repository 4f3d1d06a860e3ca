"""The helper's program, run as a file: imports one task, takes limits, and does that task until its parent is gone."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit
    resource = None  # type: ignore[assignment]


def main() -> None:
    """Do what the parent asks for. Arguments: the task's module, bytes, seconds, niceness, folders to import from."""
    module, memory, seconds, niceness = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    sys.path[:] = sys.argv[5:]
    if niceness and hasattr(os, "nice"):
        os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    frames = importlib.import_module("luvc_export.runtime.confined.frames")
    asked, replies = frames.own_pipes(silent=True)
    task = importlib.import_module(module).task
    _limit_memory(memory)
    frames.send(replies, {})
    while True:
        try:
            request, data = frames.receive(asked)
            _limit_time(seconds)
            reply, payload = task(request, data)
        except EOFError:
            return
        except MemoryError:
            reply, payload = {"ended": "memory"}, b""
        _limit_time(0)
        frames.send(replies, reply, payload)


def _limit_memory(more: int) -> None:
    """Let this process grow by so many bytes from now on, where the system can say so (Linux)."""
    if resource is None or not hasattr(resource, "RLIMIT_AS"):
        return
    try:
        held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return
    _lower(resource.RLIMIT_AS, held + more)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)


def _limit_time(seconds: float) -> None:
    """Let this process compute for so many seconds from now on (SIGPROF ends it then); 0 for no limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _lower(kind: int, most: int) -> None:
    hard: Any = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main()
