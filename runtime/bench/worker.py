"""A case in a process of its own: its memory is its alone, and several can be timed in turns."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any

from luvc_export.errors import LuvcError, MachineError
from luvc_export.runtime.bench.case import BenchCase, CaseFacts, Sample
from luvc_export.runtime.confined import frames
from luvc_export.runtime.confined.helpers import start_program
from luvc_export.signals import end_with

#: What it runs: ``python -m luvc_export.runtime.bench.worker PARENT``.
_PROGRAM = ("-m", "luvc_export.runtime.bench.worker")


class Worker:
    """Starts the process and waits until the case is loaded.

    Args:
        case: See ``LoadedCase``.
        profile: The same.
        opened: Names of plans and how many stay open: ``OpenedPlans`` in place of the case.

    Raises:
        LuvcError: What loading raised.
        MachineError: The process was killed, most likely for its memory.
    """

    def __init__(
        self, case: BenchCase, profile: str | None = None, opened: tuple[tuple[str, ...], int] | None = None
    ) -> None:
        with _ctrl_c_waits():
            self._child = start_program(_PROGRAM)
        self._where = str(case.bundle)
        try:
            self._ask("open", case, profile, opened)
        except BaseException:
            self.close()
            raise

    def run(self, case: BenchCase) -> Sample:
        """``Runner.run`` there."""
        sample: Sample = self._ask("run", case)
        return sample

    def facts(self, case: BenchCase) -> CaseFacts:
        """``Runner.facts`` there."""
        facts: CaseFacts = self._ask("facts", case)
        return facts

    def held(self) -> Any:
        """``OpenedPlans.held`` there."""
        return self._ask("held")

    def profiles(self) -> dict[str, str]:
        """``Runner.profiles`` there."""
        files: dict[str, str] = self._ask("profiles")
        return files

    def close(self) -> None:
        """End the process."""
        self._child.close_pipes()
        with suppress(subprocess.TimeoutExpired):
            self._child.process.wait(5)
        self._child.end()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, what: str, *arguments: Any) -> Any:
        try:
            reply, value = self._child.ask({}, pickle.dumps((what, arguments)))
        except (EOFError, ValueError, OSError) as error:
            raise self._died() from error
        if "failed" in reply:
            raise LuvcError.from_json(reply["failed"])
        return pickle.loads(value)

    def _died(self) -> MachineError:
        with suppress(subprocess.TimeoutExpired):
            self._child.process.wait(5)
        return MachineError(
            "the process that was timed has died",
            where=self._where,
            got=f"exit code {self._child.process.returncode}",
            expected="memory for every bundle that is compared at the same time",
            fix="compare fewer, or smaller, bundles",
        )


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Hold Ctrl-C back, in this thread and in processes started here, until the block ends or ``_serve`` begins.

    Before ``_serve`` runs, Python would answer it with a traceback of its own start.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main() -> None:
    """Open what is asked for first, then do what is asked of it, until the parent is gone."""
    end_with(int(sys.argv[1]))
    _serve(*frames.own_pipes())


def _serve(asked: IO[bytes], replies: IO[bytes]) -> None:
    runner: Any = None
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            what, arguments = pickle.loads(frames.receive(asked)[1])
            if runner is None:
                runner, value = _opened(*arguments), None
            else:
                value = getattr(runner, what)(*arguments)
            frames.send(replies, {}, pickle.dumps(value))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except LuvcError as error:
        frames.send(replies, {"failed": error.to_json()})


def _opened(case: BenchCase, profile: str | None, opened: tuple[tuple[str, ...], int] | None) -> Any:
    if opened is not None:
        from luvc_export.runtime.bench.loaded_case import OpenedPlans

        return OpenedPlans(case, *opened)
    from luvc_export.runtime.bench.loaded_case import LoadedCase

    return LoadedCase(case, profile)


if __name__ == "__main__":
    main()
