"""A short share of the fuzzer, and that it sees what it looks for."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import fuzz
import fuzz_guard
import numpy as np
import pytest

from luvc_export.bundle import hashing
from luvc_export.errors import UsageError


@pytest.mark.parametrize(("kind", "count"), [("bundles", 60), ("pictures", 60), ("plans", 200), ("checkpoints", 20)])
def test_strangers_files_end_in_our_errors(kind: str, count: int) -> None:
    assert fuzz.run(kind, 0, count) == []


def test_the_fuzzer_sees_a_hash_that_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: without the comparison some bundle answers from changed bytes, or fails in a foreign way."""

    def careless(path: object, expected: object) -> bytes:
        return path.read_bytes()  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(hashing, "read", careless)
    monkeypatch.setattr(hashing, "verify", lambda path, *_: hashing.Identity.of(path.stat()))
    assert any("an answer from a changed" in fault for fault in fuzz.run("bundles", 0, 60))


def test_the_fuzzer_sees_foreign_errors_hangs_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours() -> None:
        raise UsageError("no")

    def foreign() -> None:
        raise KeyError("grid")

    def endless() -> None:
        while True:
            with contextlib.suppress(Exception):  # as a library that goes on whatever happens
                time.sleep(0)

    monkeypatch.setattr(fuzz_guard, "CLOCK", 0.5)
    assert fuzz.fault(ours) is None
    assert fuzz.fault(foreign) == "KeyError: 'grid'"
    assert fuzz.fault(lambda: time.sleep(5)) == "no end after 10 s of computing or 0.5 s"
    monkeypatch.setattr(fuzz_guard, "CLOCK", 60.0)
    monkeypatch.setattr(fuzz_guard, "SECONDS", 0.3)
    assert "no end" in str(fuzz.fault(endless))
    monkeypatch.setattr(fuzz_guard, "SECONDS", 60)
    monkeypatch.setattr(fuzz_guard, "MEMORY", 2**20)

    def large() -> None:
        assert np.ones(2**27, np.uint8).all()

    assert "MiB" in str(fuzz.fault(large))


def test_the_watch_outlives_crashes_and_ends_what_cannot_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def case_of(number: int) -> fuzz_guard.Case:
        def case() -> None:
            if number == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            if number == 2:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGPROF})  # as in a library's call
                while True:
                    pass
            if number == 3:
                raise KeyError("grid")

        return case

    monkeypatch.setattr(fuzz_guard, "SECONDS", 0.3)
    outcomes = dict(fuzz_guard.watched(case_of, range(5)))
    assert outcomes == {
        1: "the process ended with signal 11",
        2: "no end after 0.3 s of computing or 60 s",
        3: "KeyError: 'grid'",
    }
