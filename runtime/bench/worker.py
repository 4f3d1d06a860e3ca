"""A case in a process of its own: its memory is its alone, and several can be timed in turns."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from luvc_export.errors import LuvcError, MachineError
from luvc_export.runtime.bench.case import BenchCase, CaseFacts, Sample

_GONE = (EOFError, BrokenPipeError, ConnectionResetError)


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
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(case, profile, far, opened), daemon=True)
        with warnings.catch_warnings():
            # Python starts it anew; a worker shares nothing that it would have to clean up.
            warnings.filterwarnings("ignore", "resource_tracker: process died", UserWarning)
            with _ctrl_c_waits():
                self._process.start()
        far.close()
        self._where = str(case.bundle)
        try:
            self._answer()
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
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, what: str, *arguments: BenchCase) -> Any:
        try:
            self._pipe.send((what, arguments))
        except _GONE as error:
            raise self._died() from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except _GONE as error:
            raise self._died() from error
        if not good:
            raise value
        return value

    def _died(self) -> MachineError:
        self._process.join(5)
        return MachineError(
            "the process that was timed has died",
            where=self._where,
            got=f"exit code {self._process.exitcode}",
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
    resource_tracker.ensure_running()  # its start lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    case: BenchCase, profile: str | None, pipe: Connection, opened: tuple[tuple[str, ...], int] | None = None
) -> None:
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        runner: Any
        if opened is not None:
            from luvc_export.runtime.bench.open_plans import OpenedPlans

            runner = OpenedPlans(case, *opened)
        else:
            from luvc_export.runtime.bench.loaded_case import LoadedCase

            runner = LoadedCase(case, profile)
        pipe.send((True, None))
        while True:
            what, arguments = pipe.recv()
            pipe.send((True, getattr(runner, what)(*arguments)))
    except (*_GONE, KeyboardInterrupt):
        return
    except LuvcError as error:
        pipe.send((False, _plain(error)))


def _plain(error: LuvcError) -> LuvcError:
    """The same error in a form that can be pickled."""
    machine_error = MachineError(str(error))
    machine_error.exit_code = error.exit_code
    return machine_error
