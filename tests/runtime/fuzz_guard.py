"""One case of the fuzzer under watch: foreign errors, hangs, memory, and processes that end by themselves.

``fault`` watches from inside and cannot end what hangs in a library's code, nor outlive a crash. ``watched`` runs many
cases in a forked process that it kills and replaces.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from luvc_export.errors import LuvcError

#: Seconds of computing, seconds on the clock (a busy machine computes less) and bytes that one case may take.
SECONDS, CLOCK, MEMORY = 10.0, 60.0, 2**30

Case = Callable[[], None]


class Hang(BaseException):
    """A case took longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End what runs longer than it may, if it is Python."""

    def stop(*_: object) -> None:
        raise Hang

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, clock_of(seconds)))
    before = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, most in timers:
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for (number, timer, _), old in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, old)


def fault(case: Case) -> str | None:
    """Run a case: what is wrong with how it ended, None if nothing is."""
    memory, begin, used = peak(anew=True), time.monotonic(), time.process_time()
    try:
        with limited(seconds_of(case)):
            case()
    except LuvcError:
        pass
    except Hang:
        return _late(seconds_of(case))
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if time.process_time() - used > seconds_of(case) or time.monotonic() - begin > clock_of(
        seconds_of(case)
    ):  # somebody caught the alarm
        return _late(seconds_of(case))
    grown = peak() - memory
    return f"{grown / 2**20:,.0f} MiB" if grown > MEMORY else None


def seconds_of(case: Case) -> float:
    """Seconds of computing that a case may take: ``SECONDS``, or what it says itself."""
    return float(getattr(case, "seconds", SECONDS))


def clock_of(seconds: float) -> float:
    """Seconds on the clock for so many of computing."""
    return max(CLOCK, 6 * seconds) if seconds > SECONDS else CLOCK


def _late(seconds: float) -> str:
    return f"no end after {seconds:g} s of computing or {clock_of(seconds):g} s"


def peak(anew: bool = False) -> int:
    """Most bytes this process held; ``anew`` counts from now on, where the system can forget what was before."""
    if anew:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def watched(case_of: Callable[[int], Case], numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Run the cases of ``numbers`` in forked processes: (number, fault) of those that ended wrongly."""
    at = 0
    while at < len(numbers):
        reading, writing = os.pipe()
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _work(case_of, numbers[at:], writing)
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            for outcome in _watch(process, pipe):
                if outcome:
                    yield numbers[at], outcome
                at += 1


def _work(case_of: Callable[[int], Case], numbers: Sequence[int], writing: int) -> None:
    """In the forked process: a line before each case and one after it."""
    faulthandler.disable()  # pytest's, which would print where a crash was
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # libraries say there what they end in
    for number in numbers:
        case = case_of(number)
        os.write(writing, json.dumps({"seconds": seconds_of(case)}).encode() + b"\n")
        os.write(writing, json.dumps(fault(case)).encode() + b"\n")
    os._exit(0)


def _watch(process: int, pipe: object) -> Iterator[str | None]:
    """What each case of ``process`` ended in, until it ends or is killed."""
    line, running, seconds = b"", False, CLOCK
    begin, held, used = time.monotonic(), _resident(process), _computed(process)
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.05)
        if ready:
            data = os.read(pipe.fileno(), 65_536)  # type: ignore[attr-defined]
            if not data:
                _, status = os.waitpid(process, 0)
                if status:
                    yield f"the process ended with signal {os.WTERMSIG(status)}" if running else "a broken case"
                return
            *lines, line = (line + data).split(b"\n")
            for one in lines:
                begin, held, used = time.monotonic(), _resident(process), _computed(process)
                record = json.loads(one)
                running = isinstance(record, dict)
                if running:
                    seconds = record["seconds"]
                else:
                    yield record
        fault = None
        if _computed(process) - used > seconds + 1 or time.monotonic() - begin > clock_of(seconds) + 1:
            fault = _late(seconds)
        elif _resident(process) - held > 1.2 * MEMORY:
            fault = f"more than {MEMORY / 2**20:,.0f} MiB"
        if fault:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            yield fault
            return


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _computed(process: int) -> float:
    """Seconds that a process computed."""
    try:
        parts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
