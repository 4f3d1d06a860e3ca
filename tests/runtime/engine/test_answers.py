"""Answers that come and go between tokens: each is as it is alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.core.shapes import ROWS, State
from luvc_export.demo.questions import cases
from luvc_export.runtime.engine import host_slots
from luvc_export.runtime.engine.answers import Answers
from luvc_export.runtime.engine.host_slots import CachedRow, pack_texts
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.engine.prefill import prompt_of
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import GreedyTokens, TokenSequence
from luvc_export.runtime.model import StepResult, TokensPrompt
from luvc_export.runtime.session import Session

LENGTH = 12
QUESTIONS = [
    next(cases("heldout", 1, seed, (kind,))) for seed, kind in enumerate(("where_is", "digit_of_colour", "where_is"))
]


def back_ends() -> list[str]:
    return ["cpu", "openvino"]


@pytest.fixture(scope="module", params=back_ends())
def demo(request: pytest.FixtureRequest, short_bundle: Bundle) -> Session:
    arithmetic = "auto" if request.param == "cpu" else "fp32"
    return Session(short_bundle, request.param, "thirds", threads=1, arithmetic=arithmetic)


def started(demo: Session, question: Any, extra: str = "", length: int = LENGTH) -> tuple[TokensPrompt, Answer]:
    """A prompt, and an answer to it that is forced to go on for ``length`` tokens."""
    request = demo.prepare(list(question.images), question.prompt + extra)
    sequence = TokenSequence(demo.encoder, Sampling(logprobs=0), frozenset(), length, request.token_ids)
    return prompt_of(request, demo.default.encode_images(request.images)), Answer(sequence)


def join(answers: Answers, *some: tuple[TokensPrompt, Answer]) -> list[Answer]:
    """Let answers begin, each prompt in a call of its own."""
    for prompt, answer in some:
        (joined,) = answers.slots.join([prompt])
        answers.begin(joined.slot, answer, joined.logits)
    return [answer for _, answer in some]


def answers_of(answer: Answer) -> tuple[list[int], list[float]]:
    """Tokens and their log probabilities."""
    assert isinstance(answer.chooser, TokenSequence)
    return answer.chooser.ids, [one.logprob for one in answer.chooser.logprobs]


def alone(demo: Session, question: Any, extra: str = "") -> tuple[list[int], list[float]]:
    answers = Answers(demo.default.graphs, several=False)
    (answer,) = join(answers, started(demo, question, extra))
    while not answer.ended:
        assert answers.step() == ([answer], None)
    return answers_of(answer)


def together(demo: Session) -> Iterator[tuple[int, Answer]]:
    """One answer; after three tokens two more of other lengths; after six the first goes; after nine another comes."""
    texts = ["", " Please look closely.", " Say it."]
    some = [started(demo, question, text) for question, text in zip(QUESTIONS, texts, strict=True)]
    again = started(demo, QUESTIONS[0], " Again, in other words?")
    answers = Answers(demo.default.graphs, several=True)
    join(answers, some[0])
    for step in range(40):
        if step == 3:
            join(answers, *some[1:])
        if step == 6:
            answers.leave([slot for slot, answer in answers.growing.items() if answer is some[0][1]])
        if step == 9:
            join(answers, again)
        answers.leave(answers.ended)
        if not answers.growing:
            break
        answers.step()
    assert len(answers.slots.held) == 0
    yield from enumerate(answer for _, answer in [*some, again])


def furthest(demo: Session) -> float:
    """How far log probabilities of rows that come and go are from those of rows alone; inf for other tokens."""
    wanted = [
        alone(demo, QUESTIONS[0]),
        alone(demo, QUESTIONS[1], " Please look closely."),
        alone(demo, QUESTIONS[2], " Say it."),
        alone(demo, QUESTIONS[0], " Again, in other words?"),
    ]
    assert len({tuple(ids) for ids, _ in wanted}) == 4
    worst = 0.0
    for index, answer in together(demo):
        ids, logprobs = answers_of(answer)
        assert len(ids) == (7 if index == 0 else LENGTH)
        if ids != wanted[index][0][: len(ids)]:
            return math.inf
        worst = max(worst, float(np.abs(np.subtract(logprobs, wanted[index][1][: len(ids)])).max()))
    return worst


def test_rows_that_come_and_go_answer_as_alone(demo: Session) -> None:
    """Products of one row and of several are summed in another order: 1e-3 of a log probability, fp32."""
    assert furthest(demo) < 1e-3


def test_padding_that_is_seen_moves_an_answer(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: the comparison above fails where packed texts are not masked."""

    def unmasked(parts: Any, kinds: Any) -> Any:
        arrays, mask = pack_texts(parts, kinds)
        return arrays, np.ones_like(mask)

    monkeypatch.setattr(host_slots, "pack_texts", unmasked)
    assert furthest(demo) > 1e-2


def test_texts_are_packed_to_the_left() -> None:
    """Two visual rows, then text: a slot without a token disappears, the longest text decides the length."""
    first = np.arange(2 * 5, dtype=np.float32).reshape(2, 1, 5, 1)
    second = 100 + np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    parts = [
        CachedRow([first], 1, np.array([True, False, True])),
        CachedRow([second], 0, np.array([True, True])),
    ]
    kinds = [State(0, "key", (1, ROWS, 1))]
    (packed,), mask = pack_texts(parts, kinds)
    assert packed[:, 0, :, 0].tolist() == [[5, 6, 7, 9], [100, 101, 102, 103]]
    assert mask.tolist() == [[True, True], [True, True]]
    (packed,), mask = pack_texts([parts[0], CachedRow([second], 0, np.array([False, True]))], kinds)
    assert packed[1, 0, :, 0].tolist() == [100, 101, 103, 0] and mask.tolist() == [[True, True], [True, False]]
    with pytest.raises(AssertionError, match="rows of 2 and 3 visual tokens"):
        pack_texts([parts[0], CachedRow([second], 0, np.array([True]))], kinds)


def test_states_of_rows_are_packed_by_their_shapes() -> None:
    """What has a value a cached row goes with the row, along its own axis; what has one shape goes as it is."""
    kinds = [State(0, "place", (ROWS,), "int64"), State(1, "sum", (2,), "float32")]
    first = [np.array([[7, 8, 9]]), np.array([[1.0, 2.0]], np.float32)]
    second = [np.array([[3, 4]]), np.array([[5.0, 6.0]], np.float32)]
    parts = [CachedRow(first, 0, np.array([False, True])), CachedRow(second, 0, np.array([True]))]
    (places, sums), mask = pack_texts(parts, kinds)
    assert places.tolist() == [[7, 9], [3, 4]] and places.dtype == np.int64
    assert sums.tolist() == [[1, 2], [5, 6]] and mask.all()


def test_a_row_whose_logits_are_not_finite_fails_alone(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(demo.default.graphs, several=True)
    rows = join(answers, *(started(demo, question) for question in QUESTIONS[:2]))
    real = demo.backend.decode

    def broken(feeds: Any, cache: Any) -> Any:
        out, cache = real(feeds, cache)
        out["logits"] = out["logits"].copy()
        out["logits"][1] = np.nan
        return out, cache

    monkeypatch.setattr(demo.backend, "decode", broken)
    answers.step()
    assert rows[0].failed is None and len(rows[0].chooser.ids) == 2
    assert rows[1].failed is not None and "not finite" in str(rows[1].failed)


def test_an_exception_of_one_rows_chooser_ends_that_row_alone(demo: Session) -> None:
    """Whatever it is: a mask of somebody's own may raise anything."""
    answers = Answers(demo.default.graphs, several=True)
    first, broken, last = join(answers, *(started(demo, question) for question in QUESTIONS))

    def take(step: StepResult) -> None:
        raise ZeroDivisionError("somebody's own mask")

    broken.chooser.take = take  # type: ignore[method-assign]
    assert answers.step()[0] == [first, broken, last]
    assert broken.ended and isinstance(broken.failed, ZeroDivisionError) and len(broken.chooser.ids) == 1
    answers.leave(answers.ended)
    assert answers.step()[0] == [first, last]
    assert [len(row.chooser.ids) for row in (first, last)] == [3, 3] and not first.failed and not last.failed
    with pytest.raises(ZeroDivisionError, match="somebody's own mask"):
        broken.check()


def test_tokens_may_be_forced_and_their_logits_kept() -> None:
    def step(best: int) -> StepResult:
        return StepResult(None, None, np.eye(4, dtype=np.float32)[best])

    plain, forced = GreedyTokens(3, {2}), GreedyTokens(3, (), [3, 1, 0], keep_logits=True)
    for best in (0, 2):
        plain.take(step(best))
        forced.take(step(best))
    assert plain.ids == forced.ids == [0, 2] and plain.done and not forced.done
    assert (plain.newest, forced.newest) == (2, 1)
    assert (len(plain.logits), len(forced.logits)) == (0, 2) and (plain.wants_logits, forced.wants_logits) == (0, 1)
    forced.take(StepResult(1, None, step(0).logits))
    assert forced.ids == [0, 2, 1] and forced.done, "what the decoder itself chose counts"
