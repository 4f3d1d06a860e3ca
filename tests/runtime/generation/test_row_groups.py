"""Rows that come and go between tokens: each answers as it does alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from luvc_export.runtime.generation.rows import CachedRow, OneAfterAnother, Row, RowGroup, SharedCalls, pack_texts

from luvc_export.bundle.folder import Bundle
from luvc_export.core.shapes import ROWS, State
from luvc_export.demo.questions import cases
from luvc_export.runtime.generation import rows as row_loop
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import GreedyTokens, TokenSequence
from luvc_export.runtime.model import StepResult
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


def started(demo: Session, question: Any, extra: str = "") -> Row:
    """A row after its prefill, forced to go on for ``LENGTH`` tokens."""
    request = demo.prepare(list(question.images), question.prompt + extra)
    step = demo.default.run(request.token_ids, demo.default.encode_images(request.images))
    sequence = TokenSequence(demo.encoder, Sampling(logprobs=0), frozenset(), LENGTH, request.token_ids)
    sequence.take(StepResult(None, None, step.logits[0, -1]))
    return Row(sequence, step.state)


def answers_of(row: Row) -> tuple[list[int], list[float]]:
    """Tokens and their log probabilities."""
    assert isinstance(row.chooser, TokenSequence)
    return row.chooser.ids, [one.logprob for one in row.chooser.logprobs]


def alone(demo: Session, question: Any, extra: str = "") -> tuple[list[int], list[float]]:
    row, group = started(demo, question, extra), OneAfterAnother(demo.default.graphs)
    group.change([], [row])
    while not row.ended:
        assert group.step() == [row]
    return answers_of(row)


def together(demo: Session) -> Iterator[tuple[int, Row]]:
    """One row; after three tokens two more of other lengths; after six the first goes; after nine another comes."""
    texts = ["", " Please look closely.", " Say it."]
    rows = [started(demo, question, text) for question, text in zip(QUESTIONS, texts, strict=True)]
    again = started(demo, QUESTIONS[0], " Again, in other words?")
    group: RowGroup = SharedCalls(demo.default.graphs)
    group.change([], rows[:1])
    for step in range(40):
        if step == 3:
            group.change([], rows[1:])
        if step == 6:
            group.change([rows[0]], [])
        if step == 9:
            group.change([], [again])
        ended = [row for row in group.rows if row.ended]
        if ended:
            group.change(ended, [])
        if not group.rows:
            break
        group.step()
    yield from enumerate([*rows, again])


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
    for index, row in together(demo):
        ids, logprobs = answers_of(row)
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

    monkeypatch.setattr(row_loop, "pack_texts", unmasked)
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
    rows = [started(demo, question) for question in QUESTIONS[:2]]
    group = SharedCalls(demo.default.graphs)
    group.change([], rows)
    real = demo.backend.decode

    def broken(feeds: Any, cache: Any) -> Any:
        out, cache = real(feeds, cache)
        out["logits"] = out["logits"].copy()
        out["logits"][1] = np.nan
        return out, cache

    monkeypatch.setattr(demo.backend, "decode", broken)
    group.step()
    assert rows[0].failed is None and len(rows[0].chooser.ids) == 2
    assert rows[1].failed is not None and "not finite" in str(rows[1].failed)


def test_an_exception_of_one_rows_chooser_ends_that_row_alone(demo: Session) -> None:
    """Whatever it is: a mask of somebody's own may raise anything."""
    rows = [started(demo, question) for question in QUESTIONS[:2]]
    broken = started(demo, QUESTIONS[2])

    def take(step: StepResult) -> None:
        raise ZeroDivisionError("somebody's own mask")

    broken.chooser.take = take  # type: ignore[method-assign]
    group = SharedCalls(demo.default.graphs)
    group.change([], [rows[0], broken, rows[1]])
    assert group.step() == [rows[0], broken, rows[1]]
    assert broken.ended and isinstance(broken.failed, ZeroDivisionError) and len(broken.chooser.ids) == 1
    assert group.step() == rows, "it runs along until it leaves, and gets nothing"
    assert [len(row.chooser.ids) for row in rows] == [3, 3] and not any(row.failed for row in rows)
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
