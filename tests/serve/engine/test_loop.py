"""The engine's turns: who waits for what, who leaves when, and what ends it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from asking import CASES, SECONDS, Asked, Nobody, long, submit

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import CheckFailed, MachineError
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.engine.host_slots import HostSlots
from luvc_export.runtime.session import Session
from luvc_export.serve.engine.jobs import Ended, Failed, Finished, Piece
from luvc_export.serve.engine.loop import Engine


def test_answers_are_those_of_generate(engine: Engine, demo_session: Session) -> None:
    asked = [Asked(demo_session, number) for number in range(8)]
    submit(engine, *asked)
    wanted = [demo_session.generate(list(case.images), case.prompt).text for case in CASES[:8]]
    assert [one.text() for one in asked] == wanted
    assert engine.running == 0 and engine.waiting == 0


def test_whoever_comes_late_waits_for_one_step(engine: Engine, demo_session: Session) -> None:
    """And everybody else for one prefill: between two prefills everybody gets a token."""
    first, late = long(demo_session), [Asked(demo_session, number) for number in (1, 2, 3)]
    submit(engine, first)
    first.wait(Piece)
    assert engine.trace is not None
    before = len(engine.trace)
    submit(engine, *late)
    for one in late:
        one.wait(Ended)
    turns = engine.trace[before:]
    prefills = [index for index, turn in enumerate(turns) if turn == "prefill"]
    assert len(prefills) == 3 and prefills[0] <= 2, turns
    assert all(turns[index + 1].startswith("step") for index in prefills), turns
    first.wait(Ended)


def test_clients_take_turns_for_rows(engine: Engine, demo_session: Session) -> None:
    """Fifty-eight streams of one client were answered before one question of another."""
    many, other = [long(demo_session, number % 4, 12) for number in range(14)], Asked(demo_session, 5)
    ended = list[str]()
    for one in [*many, other]:
        one.job.client = "other" if one is other else "greedy"
        tell = one.job.tell
        one.job.tell = lambda event, name=one.job.client, tell=tell: (  # type: ignore[misc]
            ended.append(name) if isinstance(event, Ended) else None,
            tell(event),
        )
    with engine._changed:
        for one in [*many, other]:
            engine._promised += 1
            engine.submit(one.job)
    for one in [*many, other]:
        one.wait(Ended)
    assert ended.index("other") < 8, ended


def test_rows_share_a_step(engine: Engine, demo_session: Session) -> None:
    asked = [long(demo_session, number) for number in range(4)]
    submit(engine, *asked)
    for one in asked:
        one.wait(Ended)
    assert engine.trace is not None and "step 4" in engine.trace
    assert sum(turn.startswith("step") for turn in engine.trace) < 4 * 39


def test_a_client_that_goes_away_frees_its_row_before_the_next_token(engine: Engine, demo_session: Session) -> None:
    gone, stays = long(demo_session, 0, 100), long(demo_session, 1, 60)
    submit(engine, gone, stays)
    stays.wait(Piece)
    gone.job.cancel()
    at = len(engine.trace or [])
    stays.wait(Ended)
    later = (engine.trace or [])[at + 1 :]
    assert later and set(later) == {"step 1"}, later
    waiting = Asked(demo_session, 2)
    waiting.job.cancel()
    submit(engine, waiting)
    after = Asked(demo_session, 3)
    submit(engine, after)
    after.wait(Ended)
    assert waiting.events.empty(), "one that was given up while it waited never starts"


def test_several_choices_take_one_prefill_and_draw_apart(engine: Engine, demo_session: Session) -> None:
    asked = long(demo_session, 0, 12, choices=4, temperature=2.0, seed=3)
    submit(engine, asked)
    events = asked.wait(Ended)
    texts = {n: "".join(e.text for e in events if isinstance(e, Piece) and e.choice == n) for n in range(4)}
    assert len(set(texts.values())) > 1
    assert {event.choice for event in events if isinstance(event, Finished)} == {0, 1, 2, 3}
    ended = events[-1]
    assert isinstance(ended, Ended) and ended.completion_tokens == 48
    assert (engine.trace or []).count("prefill") == 1 and "step 4" in (engine.trace or [])
    case, bias = CASES[0], dict.fromkeys(demo_session.default.ends, -100.0)
    alone = demo_session.generate(
        list(case.images), case.prompt, temperature=2.0, seed=4, max_new_tokens=12, logit_bias=bias
    )
    assert texts[1] == alone.text, "choice i draws with seed + i"


def test_the_queue_is_bounded(demo_session: Session) -> None:
    engine = Engine(FeatureCache(0), rows=8, queue=2, observer=Nobody())
    assert [engine.reserve() for _ in range(3)] == [True, True, False]
    engine.release()
    assert engine.reserve() and not engine.reserve()


def test_a_back_end_of_one_row_answers_one_after_another(
    engine: Engine, demo_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_session.backend, "capabilities", replace(demo_session.backend.capabilities, rows=1))
    asked = [Asked(demo_session, number) for number in range(3)]
    submit(engine, *asked)
    wanted = [demo_session.generate(list(case.images), case.prompt).text for case in CASES[:3]]
    texts = [one.text() for one in asked]
    assert texts == wanted
    assert set(engine.trace or []) == {"prefill", "step 1"}


def test_a_step_that_fails_ends_its_rows_and_no_more(
    engine: Engine, demo_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = demo_session.backend.decode, 0

    def broken(feeds: Any, cache: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise MachineError("there is not enough memory")
        return real(feeds, cache)

    monkeypatch.setattr(demo_session.backend, "decode", broken)
    asked = long(demo_session)
    submit(engine, asked)
    failed = asked.wait(Failed)[-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, MachineError)
    after = Asked(demo_session, 1)
    submit(engine, after)
    assert after.text() == demo_session.generate(list(CASES[1].images), CASES[1].prompt).text
    assert engine.running == 0


@pytest.mark.parametrize("joining", [True, False])
def test_rows_that_cannot_be_packed_fail_and_the_engine_lives(
    engine: Engine, demo_session: Session, monkeypatch: pytest.MonkeyPatch, joining: bool
) -> None:
    """Memory runs out where a row comes, or where one goes: an exception there once ended the engine's thread."""
    name = "_merge" if joining else "leave"
    real, left = getattr(HostSlots, name), 1

    def change(self: HostSlots, *arguments: Any) -> None:
        nonlocal left
        if left and not (joining and len(arguments[0]) < 2):
            left -= 1
            raise MemoryError("no room for the rows")
        real(self, *arguments)

    first = long(demo_session, tokens=100)
    submit(engine, first)
    first.wait(Piece)
    monkeypatch.setattr(HostSlots, name, change)
    if joining:
        submit(engine, long(demo_session, 1))
        failed = first.wait(Failed)[-1]
        assert isinstance(failed, Failed) and isinstance(failed.error, MemoryError)
    else:
        first.text()
    after = Asked(demo_session, 1)
    submit(engine, after)
    assert after.text() == demo_session.generate(list(CASES[1].images), CASES[1].prompt).text
    assert not left and engine.alive and engine.running == 0


def test_a_prefill_that_fails_is_told(engine: Engine, demo_session: Session) -> None:
    asked = Asked(demo_session, mask=lambda: lambda session: demo_session and _nothing())
    submit(engine, asked)
    failed = asked.wait(Failed)[-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, CheckFailed)


def _nothing() -> Any:
    import numpy as np

    return np.zeros(448, np.bool_)


def test_draining_finishes_what_there_is(demo_session: Session) -> None:
    engine = Engine(FeatureCache(0), rows=2, queue=16, observer=Nobody())
    engine.start()
    asked = [Asked(demo_session, number) for number in range(3)]
    submit(engine, *asked)
    engine.drain()
    assert not engine.reserve()
    for one in asked:
        one.wait(Ended)
    assert engine.join(SECONDS)


def test_what_goes_wrong_before_the_first_job_ends_the_engine() -> None:
    ended = threading.Event()

    def broken() -> None:
        raise MachineError("there is no GPU")

    engine = Engine(FeatureCache(0), 8, 16, Nobody(), broken, ended.set)
    engine.start()
    assert ended.wait(SECONDS) and engine.join(SECONDS)
    assert isinstance(engine.error, MachineError) and not engine.ready.is_set()


def test_rows_of_different_numbers_of_pictures_share_no_call(
    engine: Engine, demo_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step gives both a token, in a call each."""
    rows, real = list[int](), demo_session.backend.decode

    def watched(feeds: Any, cache: Any) -> Any:
        rows.append(len(feeds["input_ids"]))
        return real(feeds, cache)

    monkeypatch.setattr(demo_session.backend, "decode", watched)
    two = next(number for number, case in enumerate(CASES) if case.kind == "two_pictures")
    asked = [long(demo_session, 0, 20), long(demo_session, two, 20)]
    submit(engine, *asked)
    for one in asked:
        one.wait(Ended)
    assert "step 2" in (engine.trace or []) and set(rows) == {1}


def test_memory_of_rows_is_let_go(engine: Engine, demo_session: Session) -> None:
    asked = [Asked(demo_session, number) for number in range(4)]
    submit(engine, *asked)
    for one in asked:
        one.wait(Ended)
    end = time.monotonic() + SECONDS
    while engine.scheduler._open and time.monotonic() < end:
        time.sleep(0.01)
    assert not engine.scheduler._open


def test_an_engine_of_bundles_side_by_side(engine: Engine, demo_bundle: Bundle, demo_session: Session) -> None:
    none = Session(demo_bundle, "cpu", "none", threads=1)
    asked = [Asked(demo_session), Asked(none)]
    submit(engine, *asked)
    case = CASES[0]
    wanted = [one.generate(list(case.images), case.prompt).text for one in (demo_session, none)]
    assert [one.text() for one in asked] == wanted
