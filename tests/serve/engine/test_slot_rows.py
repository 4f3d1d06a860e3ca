"""Engines built for several rows: on the stand-in GPU each answer is the CPU session's, whoever comes and goes."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "runtime"))

import ort_engine
import stand_in
from asking import Asked, long, submit

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.session import Session
from luvc_export.serve.engine.jobs import Failed
from luvc_export.serve.engine.loop import Engine

SLOTS = 3


@pytest.fixture
def ours(demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Session:
    return opened(demo_bundle, monkeypatch)


def opened(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    engine = ort_engine.describe(bundle, "thirds", "concat", ort_engine.Capacity(text=96, groups=2, batch=SLOTS))
    backend, _ = engine.backend(Gpu(library=stand_in.library()))
    return Session(engine.bundle, backend, "thirds")


@pytest.fixture(scope="module")
def alone(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, "cpu", "thirds", threads=1)


def test_more_questions_than_slots_are_answered_as_alone(engine: Engine, ours: Session, alone: Session) -> None:
    options: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 3}, {"logprobs": 1}]
    numbers = [(number, options[number % 3]) for number in range(9)]
    asked = [Asked(ours, number, **more) for number, more in numbers]
    wanted = [Asked(alone, number, **more) for number, more in numbers]
    submit(engine, *asked)
    texts = [one.text() for one in asked]
    submit(engine, *wanted)
    assert texts == [one.text() for one in wanted]
    assert engine.running == 0


def test_all_slots_are_used_and_no_more(engine: Engine, ours: Session, alone: Session) -> None:
    asked, wanted = ([long(one, number, 12) for number in range(5)] for one in (ours, alone))
    submit(engine, *asked)
    texts = [one.text() for one in asked]
    steps = {turn for turn in engine.trace or [] if turn.startswith("step")}
    assert f"step {SLOTS}" in steps and f"step {SLOTS + 1}" not in steps
    submit(engine, *wanted)
    assert texts == [one.text() for one in wanted]


def test_choices_take_a_slot_each(engine: Engine, ours: Session, alone: Session) -> None:
    asked, wanted = (Asked(one, 0, choices=2, temperature=2.0, seed=1, max_new_tokens=6) for one in (ours, alone))
    submit(engine, asked)
    text = asked.text()
    submit(engine, wanted)
    assert sorted(text) == sorted(wanted.text())


def test_more_choices_than_slots_fail_and_leave_them_free(engine: Engine, ours: Session, alone: Session) -> None:
    many = Asked(ours, 0, choices=SLOTS + 1)
    submit(engine, many)
    assert isinstance(many.wait(Failed)[-1], Failed)
    asked = [Asked(ours, number) for number in range(SLOTS)]
    submit(engine, *asked)
    texts = [one.text() for one in asked]
    wanted = [Asked(alone, number) for number in range(SLOTS)]
    submit(engine, *wanted)
    assert texts == [one.text() for one in wanted]


def test_plans_take_turns_and_their_slots_stay_usable(
    engine: Engine, ours: Session, alone: Session, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is open at a time. What is kept of each is the rows' object, whose memory goes when no row is in it."""
    other, gone = opened(demo_bundle, monkeypatch), list[int]()
    ours.default.residency = other.default.residency = PlanResidency(1)
    for session in (ours, other):
        unload: Any = session.backend.unload  # type: ignore[attr-defined]
        backend: Any = session.backend

        def counted(unload: Any = unload, backend: Any = backend) -> None:
            unload()
            gone.append(backend._caches.nbytes)

        monkeypatch.setattr(backend, "unload", counted)
    for _ in range(2):
        asked = [Asked(session, number) for number, session in enumerate((ours, other))]
        submit(engine, *asked)
        texts = [one.text() for one in asked]
        wanted = [Asked(alone, number) for number in range(2)]
        submit(engine, *wanted)
        assert texts == [one.text() for one in wanted]
    assert len(gone) >= 2 and not any(gone)
    assert {bool(session.backend.placement()) for session in (ours, other)} == {False, True}


def test_calls_of_engines_are_timed(engine: Engine, ours: Session) -> None:
    """Prompts, and steps of all slots, which are under way before the step before them is read."""
    asked = [long(ours, number, 12) for number in range(2)]
    begin = perf_counter()
    submit(engine, *asked)
    for one in asked:
        one.text()
    spent = perf_counter() - begin
    times = {one.part: one for one in ours.default.call_times()}
    turns = [turn.partition(" ")[0] for turn in engine.trace or []]
    assert {one.engine for one in times.values()} == {"tensorrt fp32"}
    assert times["prompt"].calls == turns.count("prefill") == 2 and times["step"].calls == turns.count("step") > 10
    assert 0 < times["prompt"].seconds + times["step"].seconds < spent
