"""Helper processes, kept alive between calls: one thread uses one at a time, and what takes too much is killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.confined import frames

_PROGRAM = Path(__file__).with_name("child.py")
#: What this package is imported from.
_ROOT = str(Path(__file__).parents[3])
#: Seconds until a helper must have imported its task; a busy board may take five.
_START = 60.0
_CLOCK = 9.0
#: Times that the clock starts anew for a helper that would compute and is not let: stopped, or a core is not free.
_PATIENT = 20
_MEMORY = "more memory than it may have"
#: ``nice`` of helpers that may compute for seconds: answers go first.
NICE = 10
#: Signals by which a process ends that gets none, or all there is: SIGABRT, SIGBUS, SIGKILL, SIGSEGV.
_BY_MEMORY = (-6, -7, -9, -11)
#: Libraries that would start threads with memory of their own; glibc takes 64 MiB of addresses for each thread's.
_ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class Child:
    """A process of ours that answers messages (``frames``) on its standard input and output, one at a time.

    Args:
        program: Arguments of the interpreter.
        silent: What it writes to standard error goes nowhere.
        folder: Where it works; None for here.
        environment: What is otherwise in its environment.

    Raises:
        OSError: The system starts no interpreter.
    """

    def __init__(
        self, program: Sequence[str], silent: bool = False, folder: str | None = None, **environment: str
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if silent else None,
            cwd=folder,
            env={**os.environ, **environment},
        )

    def ask(self, request: dict[str, Any], data: bytes | memoryview = b"") -> tuple[dict[str, Any], bytes]:
        """Send a message and wait for what answers it.

        Raises:
            EOFError, ValueError, OSError: It is gone, or answered something else.
        """
        assert self.process.stdin is not None
        frames.send(self.process.stdin, request, data)
        return self.receive()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Wait for a message; errors: see ``ask``."""
        assert self.process.stdout is not None
        return frames.receive(self.process.stdout)

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        self.close_pipes()
        self.process.wait()

    def close_pipes(self) -> None:
        """Let go of what connects it."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet
                pipe.close() if pipe else None


def start_program(program: Sequence[str]) -> Child:
    """Start ``program``, which imports what this process does; its last argument is this process, to end with."""
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)  # noqa: PTH109
    return Child((*program, str(os.getpid())), PYTHONPATH=path)


class TooMuchError(Exception):
    """A helper was ended: the text says by which limit.

    ``code`` is what its process ended with, a signal's number below zero; ``late`` where a limit on time ended it.
    """

    def __init__(self, text: str, code: int | None = None, late: bool = False) -> None:
        super().__init__(text)
        self.code, self.late = code, late


class Helpers:
    """Helpers for one task. Threads may share it.

    On Linux memory, computing time and the wall clock are limited; elsewhere what the system knows of these, on Windows
    the clock alone.

    Args:
        module: Has ``task(said, data) -> (reply, data)``; imported by each helper when it starts.
        memory: Bytes that a helper may take beyond its imports.
        seconds: Of computing, for one call; the clock may show three times as many, and 9 at least. Where Linux says
            that the helper waits for nothing but a core, the clock starts anew.
        most: Helpers at once; further threads wait.
        clock: Seconds that the clock may show, where not as above.
        nice: How much less than this process's their work counts where cores are few (``os.nice``; not on Windows).
    """

    def __init__(
        self, module: str, memory: int, seconds: float, most: int = 4, clock: float | None = None, nice: int = 0
    ) -> None:
        self._module, self._memory, self._seconds, self._most, self._nice = module, memory, seconds, most, nice
        self._clock = max(3 * seconds, _CLOCK) if clock is None else clock
        self._renew()
        _known.add(self)

    def forget(self) -> None:
        """Have none, as a process that was forked: the helpers are its parent's."""
        for helper in self._idle:
            helper.abandon()
        self._renew()

    def _renew(self) -> None:
        self._idle: list[_Helper] = []
        self._lock, self._places = threading.Lock(), threading.BoundedSemaphore(self._most)

    def start(self) -> None:
        """Start a helper if none is there, and do not wait for it: its imports take a tenth of a second."""
        with self._lock:
            if not self._idle:
                self._idle.append(self._another())

    def _another(self) -> _Helper:
        return _Helper(self._module, (self._memory, self._seconds, self._nice), self._clock)

    def call(self, request: dict[str, Any], data: bytes | memoryview = b"") -> tuple[dict[str, Any], bytes]:
        """Have the task done.

        Raises:
            TooMuchError: It takes too much time or memory.
            MachineError: No helper can be started here.
        """
        with self._places:
            with self._lock:
                helper = self._idle.pop() if self._idle else None
            if helper is not None and not helper.living:
                helper.close()
                helper = None
            helper = helper or self._another()
            try:
                reply = helper.call(request, data)
            except BaseException:  # also Ctrl-C: the answer to this call must not be the next one's
                helper.close()
                raise
            with self._lock:
                self._idle.append(helper)
            return reply

    def decode(self, what: str, request: dict[str, Any], data: bytes, fix: str) -> tuple[dict[str, Any], bytes]:
        """Have a file decoded whose name is ``request["where"]``.

        Args:
            what: What the file is, for errors.
            request: See ``call``.
            data: The file.
            fix: What to do where decoding it takes too much.

        Raises:
            UsageError: The task replies with one; or it takes too much time or memory.
            MachineError: No helper can be started here.
        """
        try:
            reply, pixels = self.call(request, data)
        except TooMuchError as error:
            most = f"at most {self._seconds:g} s and {self._memory / 2**30:g} GiB"
            text = f"{what} takes too much time or memory to decode"
            raise UsageError(text, where=request["where"], got=str(error), expected=most, fix=fix) from error
        if "what" in reply:
            raise UsageError(reply["what"], **{name: reply[name] for name in ("where", "got", "expected", "fix")})
        return reply, pixels

    def close(self) -> None:
        """End the helpers that do nothing."""
        with self._lock:
            idle, self._idle = self._idle, []
        for helper in idle:
            helper.close()


class _Helper:
    def __init__(self, module: str, limits: tuple[int, float, int], clock: float) -> None:
        self._seconds, self._patience, self._ready = limits[1], clock, False
        if not sys.executable or getattr(sys, "frozen", False):
            raise _unable(sys.executable or "no Python interpreter: sys.executable is empty")
        folders = [_ROOT, *(str(Path(folder).absolute()) for folder in sys.path if folder and folder != _ROOT)]
        program = ("-I", "-S", str(_PROGRAM), module, *map(str, limits), *folders)
        try:
            self._child = Child(program, silent=True, folder=os.sep, **_ALONE)
        except OSError as error:
            raise _unable(f"{sys.executable}: {error.strerror}") from error

    @property
    def living(self) -> bool:
        return self._child.process.poll() is None

    def call(self, request: dict[str, Any], data: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
        if not self._ready:
            self._wait_ready()
        with self._clock(self._patience, self._computed()) as late:
            try:
                reply = self._child.ask(request, data)
            except (EOFError, ValueError, OSError) as error:
                raise self._how_ended(late.is_set()) from error
        if "ended" in reply[0]:
            raise TooMuchError(_MEMORY)
        return reply

    def _wait_ready(self) -> None:
        with self._clock(_START):
            try:
                self._child.receive()
            except (EOFError, ValueError, OSError) as error:
                raise _unable(f"{sys.executable} {_PROGRAM.name}: it ended while it was started") from error
        self._ready = True

    @contextmanager
    def _clock(self, seconds: float, begun: float | None = None) -> Iterator[threading.Event]:
        """Kill the helper when the clock says so; tells whether it did.

        ``begun`` are the seconds that it had computed before: while it has not had its own and is not asleep, it waits
        for a core.
        """
        late, answered = threading.Event(), threading.Event()

        def watch() -> None:
            for _ in range(_PATIENT):
                if answered.wait(seconds):
                    return
                if begun is None or not self._waits_for_a_core(begun):
                    break
            late.set()
            self._child.process.kill()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield late
        finally:
            answered.set()
            watching.join()

    def _status(self) -> list[str]:
        """What ``/proc/PID/stat`` has after the name, the state first (proc(5)); nothing where no Linux says."""
        try:
            text = Path(f"/proc/{self._child.process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return text.rpartition(")")[2].split()

    def _computed(self) -> float | None:
        """Seconds that the helper has computed, None where nobody says."""
        status = self._status()
        return (int(status[11]) + int(status[12])) / os.sysconf("SC_CLK_TCK") if status else None

    def _waits_for_a_core(self, begun: float) -> bool:
        """Whether it would go on if it were let, and has computed less than it may since ``begun``."""
        status, computed = self._status(), self._computed()
        return bool(status) and status[0] in "RTD" and computed is not None and computed - begun < self._seconds

    def _how_ended(self, late: bool) -> TooMuchError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.process.wait(1)
        code = self._child.process.poll() or 0
        if late or code == -getattr(signal, "SIGPROF", 0):
            return TooMuchError(f"more than {min(self._seconds, self._patience):g} s", code, late=True)
        return TooMuchError(_MEMORY if code in _BY_MEMORY else f"its process ended with code {code}", code)

    def close(self) -> None:
        self._child.end()

    def abandon(self) -> None:
        """Forget a process that is not this one's."""
        self._child.process.returncode = 0  # nothing to wait for
        self._child.close_pipes()


def _unable(got: str) -> MachineError:
    return MachineError(
        "the helper process that reads what strangers wrote cannot be started",
        where="luvc_export.runtime.confined",
        got=got,
        expected="a Python interpreter that can be started again, with this package's dependencies",
        fix="run from an installed Python, not from a frozen program; see docs/security.md",
    )


_known: weakref.WeakSet[Helpers] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """End every helper that does nothing; what asks again starts another."""
    for helpers in list(_known):
        helpers.close()


def _forget_all() -> None:
    for helpers in list(_known):
        helpers.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
