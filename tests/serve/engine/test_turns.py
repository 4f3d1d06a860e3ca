"""Buckets in the engine: jobs of what is loaded go first, nobody waits for ever, and no answer is unloaded midway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asking import Asked, long, submit

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.engine.scheduler import OVERTAKEN
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.session import Session
from luvc_export.serve.engine.jobs import Ended, Piece
from luvc_export.serve.engine.loop import Engine

NAMES = ("wide", "narrow")


@pytest.fixture
def turns(
    engine: Engine, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[str, Session], list[str]]]:
    """Two sessions that take turns, and which were unloaded so far, with the rows that grew meanwhile."""
    events: list[str] = []
    shared, sessions = PlanResidency(), {name: Session(demo_bundle, "cpu", threads=1) for name in NAMES}
    for name, session in sessions.items():
        session.default.residency = shared
        session.default.__dict__["_in_turn"] = session.backend
        unload: Any = session.backend.unload  # type: ignore[attr-defined]

        def gone(name: str = name, unload: Any = unload) -> None:
            events.append(f"{name} {engine.running}")
            unload()

        monkeypatch.setattr(session.backend, "unload", gone)
    yield sessions, events


def test_the_queue_is_answered_by_what_is_loaded(engine: Engine, turns: tuple[dict[str, Session], list[str]]) -> None:
    sessions, events = turns
    asked = [long(sessions[NAMES[number % 2]], number, tokens=3) for number in range(8)]
    with engine._changed:  # all of them are there before any is taken
        for one in asked:
            engine._promised += 1
            engine.submit(one.job)
    for one in asked:
        one.wait(Ended)
    assert events == ["wide 0"], events
    assert [one.job.overtaken for one in asked] == [0, 3, 0, 2, 0, 1, 0, 0]


def test_nobody_is_overtaken_for_ever(engine: Engine, turns: tuple[dict[str, Session], list[str]]) -> None:
    sessions, events = turns
    first = long(sessions["wide"], 0, tokens=60)
    submit(engine, first)
    first.wait(Piece)
    other, later = Asked(sessions["narrow"], 1), [long(sessions["wide"], 0, tokens=2) for _ in range(OVERTAKEN + 3)]
    with engine._changed:
        for one in (other, *later):
            engine._promised += 1
            engine.submit(one.job)
    for one in (other, *later):
        one.wait(Ended)
    assert other.job.overtaken == OVERTAKEN
    assert events == ["wide 0", "narrow 0"], "the rest wait for the one that was overtaken so often"


def test_an_answer_is_not_unloaded_midway(engine: Engine, turns: tuple[dict[str, Session], list[str]]) -> None:
    sessions, events = turns
    first, other = long(sessions["wide"], 0, tokens=30), Asked(sessions["narrow"], 1)
    submit(engine, first)
    first.wait(Piece)
    submit(engine, other)
    first.wait(Ended)
    other.wait(Ended)
    assert events == ["wide 0"]


def test_with_room_for_both_nobody_waits(engine: Engine, turns: tuple[dict[str, Session], list[str]]) -> None:
    sessions, events = turns
    shared = PlanResidency(2)
    for session in sessions.values():
        session.default.residency = shared
    first, other = long(sessions["wide"], 0, tokens=60), Asked(sessions["narrow"], 1)
    submit(engine, first)
    first.wait(Piece)
    submit(engine, other)
    other.wait(Ended)
    assert engine.running and not events
    first.wait(Ended)
