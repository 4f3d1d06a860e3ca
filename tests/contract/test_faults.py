"""Faults on every back-end: a prompt that fails to join and a step that fails touch no other answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cells
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.engine.answers import Answers, take_agreeing
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.engine.prefill import prompt_of
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend
from luvc_export.runtime.tensorrt.decoder import TrtDecoder

LENGTH = 8
PROMPTS = ("what is red?", "where is it now?", "row one row two")


@pytest.fixture(scope="module", params=[*cells.BACKENDS, *(f"tensorrt {form}" for form in cells.FORMS)])
def session(request: pytest.FixtureRequest, short_bundle: Bundle) -> Session:
    name = request.param
    if name.startswith("tensorrt"):
        return cells.on_stand_in(short_bundle, name.split()[1])
    pytest.importorskip("openvino" if "openvino" in name else "onnxruntime")
    return Session(short_bundle, name, "thirds", 1, arithmetic=cells.BACKENDS[name])


@pytest.fixture(scope="module")
def alone(session: Session) -> list[list[int]]:
    """Tokens of each prompt's answer, by itself."""
    tokens = []
    for text in PROMPTS:
        answers = Answers(session.default.graphs, several=True)
        answer = begin(answers, session, text)
        finish(answers)
        tokens.append(tokens_of(answer))
    assert len({*map(tuple, tokens)}) == len(PROMPTS)
    return tokens


def begin(answers: Answers, session: Session, text: str, picture: bool = False) -> Answer:
    """Let an answer of ``LENGTH`` tokens begin."""
    request = session.prepare(list(cells.CASES[0].images) if picture else None, text)
    answer = Answer(TokenSequence(session.encoder, Sampling(), frozenset(), LENGTH, request.token_ids))
    seen = session.default.encode_images(request.images) if picture else None
    prompt = prompt_of(request, seen) if seen is not None else TokensPrompt(request.token_ids)
    (joined,) = answers.slots.join([prompt])
    answers.begin(joined.slot, answer, joined.logits)
    return answer


def finish(answers: Answers) -> None:
    while answers.growing:
        answers.step()
        answers.leave(answers.ended)


def tokens_of(answer: Answer) -> list[int]:
    assert isinstance(answer.chooser, TokenSequence)
    return answer.chooser.ids


def break_decoder(session: Session, monkeypatch: pytest.MonkeyPatch, calls: Iterator[BaseException | None]) -> None:
    """Each decoder call raises what comes next, if it is an error."""
    owner, name = session.backend, "decode"
    if isinstance(owner, TrtBackend):
        owner, name = TrtDecoder, "enqueue"  # type: ignore[assignment]
    honest = getattr(owner, name)

    def broken(*arguments: Any, **options: Any) -> Any:
        if (error := next(calls, None)) is not None:
            raise error
        return honest(*arguments, **options)

    monkeypatch.setattr(owner, name, broken)


@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt])
def test_a_prompt_that_does_not_join_leaves_no_slot(
    session: Session, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    answers = Answers(session.default.graphs, several=True)
    first = begin(answers, session, PROMPTS[0])
    answers.step()
    held = {*answers.slots.held}
    with monkeypatch.context() as patch:
        break_decoder(session, patch, iter([kind("no room")]))
        with pytest.raises(kind):
            begin(answers, session, PROMPTS[1])
    assert {*answers.slots.held} == held and len(answers.growing) == 1
    answers.step()
    second = begin(answers, session, PROMPTS[1])
    finish(answers)
    assert [tokens_of(one) for one in (first, second)] == alone[:2]
    assert len(answers.slots.held) == 0


def test_a_step_that_fails_ends_the_answers_of_its_call(
    session: Session, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with a picture and without take calls of their own in the host's memory; on a device one call takes all."""
    answers = Answers(session.default.graphs, several=True)
    failing = begin(answers, session, PROMPTS[0])
    answers.step()
    shares = isinstance(session.backend, TrtBackend)
    other = begin(answers, session, PROMPTS[0], picture=True) if not shares else failing
    with monkeypatch.context() as patch:
        break_decoder(session, patch, iter([RuntimeError("lost")]))
        stepped, _ = answers.step()
    assert isinstance(failing.failed, RuntimeError) and {failing, other} == {*stepped}
    assert shares or (other.failed is None and len(tokens_of(other)) == 2)
    finish(answers)
    assert shares or (other.failed is None and len(tokens_of(other)) == LENGTH)
    again = begin(answers, session, PROMPTS[2])
    finish(answers)
    assert tokens_of(again) == alone[2] and len(answers.slots.held) == 0


def test_a_slot_may_be_left_while_its_step_is_pending(session: Session, alone: list[list[int]]) -> None:
    answers = Answers(session.default.graphs, several=True)
    leaving, staying = (begin(answers, session, text) for text in PROMPTS[:2])
    slots = {answer: slot for slot, answer in answers.growing.items()}
    pending = answers.slots.step({slots[answer]: [answer.chooser.newest] for answer in (leaving, staying)})
    answers.slots.leave(slots[leaving])
    del answers.growing[slots[leaving]]
    assert take_agreeing(staying, [], pending.read()[slots[staying]]) == 1
    assert {*answers.slots.held} == {slots[staying]}
    finish(answers)
    assert tokens_of(staying) == alone[1]


@pytest.mark.parametrize("session", ["cpu", "tensorrt concat"], indirect=True)
def test_a_faulty_loop_is_seen(session: Session, alone: list[list[int]]) -> None:
    """Sabotage of each test above: a step's error swallowed, a slot of a prompt that failed, one that nobody leaves."""
    slots = type(Answers(session.default.graphs, several=True).slots)
    take, join = Answer.take, slots.join

    def swallow(self: Answer, step: Any) -> None:
        if step.failed is None:
            take(self, step)

    def keep(self: Any, prompts: Any) -> Any:
        try:
            return join(self, prompts)
        except BaseException:
            join(self, prompts)
            raise

    def fails(patch: pytest.MonkeyPatch) -> None:
        test_a_step_that_fails_ends_the_answers_of_its_call(session, alone, patch)

    def is_refused(patch: pytest.MonkeyPatch) -> None:
        test_a_prompt_that_does_not_join_leaves_no_slot(session, alone, patch, MemoryError)

    def is_left(patch: pytest.MonkeyPatch) -> None:
        test_a_slot_may_be_left_while_its_step_is_pending(session, alone)

    faults: list[tuple[Any, str, Any, Any, str]] = [
        (Answer, "take", swallow, fails, "RuntimeError"),
        (slots, "join", keep, is_refused, "Extra items"),
        (slots, "leave", lambda self, slot: None, is_left, "Extra items"),
    ]
    for owner, name, fault, test, text in faults:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, fault)
            with pytest.raises(AssertionError, match=text):
                test(patch)
        with pytest.MonkeyPatch.context() as patch:
            test(patch)
