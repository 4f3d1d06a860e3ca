"""What a build says while it runs: its log, its progress, and the wish to stop it.

TensorRT calls back into classes derived from its own, so they are made once its module is known.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luvc_export.core.progress import Progress
from luvc_export.signals import ENDING

_UNUSED = "unused input"


class Interrupt:
    """Whether the build should end: an exception may not pass through TensorRT, so it is raised after the build."""

    def __init__(self) -> None:
        self._seen: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether a signal came."""
        return self._seen is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note signals that Python handles in this block, then let them have their effect.

        Raises:
            KeyboardInterrupt: SIGINT came.
            SystemExit: Another of ``signals.ENDING`` came, in a process that ends so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [number for number in ENDING if callable(signal.getsignal(number))]
        before = {number: signal.signal(number, self._note) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._seen is not None:
            signal.raise_signal(self._seen)

    def _note(self, number: int, frame: object) -> None:
        self._seen = number


def logger(trt: Any) -> Any:
    """A logger that keeps its lines as (severity, message) in ``lines``, but for the most verbose."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity != trt.ILogger.VERBOSE:
                self.lines.append((severity.name, message))

    return Log()


def unused_inputs(lines: list[tuple[str, str]]) -> list[str]:
    """Warnings that an input is read by nothing."""
    return [message for _, message in lines if _UNUSED in message.lower()]


def problems(lines: list[tuple[str, str]]) -> str:
    """The errors of a log, for a message."""
    errors = [message for severity, message in lines if severity in ("ERROR", "INTERNAL_ERROR")]
    return "\n    ".join(errors[:5]) or "no reason given"


def monitor(trt: Any, stage: str, progress: Progress, interrupt: Interrupt) -> Any:
    """A progress monitor: tells how far the outermost phase is, and cancels the build when asked."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.outermost: str | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = max(1, num_steps)
            if parent_phase is None:
                self.outermost = phase_name

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self.outermost:
                progress(stage, min(1.0, (step + 1) / self.steps[phase_name]))
            return not interrupt.wanted

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)
            if phase_name == self.outermost:
                progress(stage, 1.0)

    return Monitor()
