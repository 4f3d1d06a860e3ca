"""Rows that come and go between tokens: each answers as it does alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.runtime.generation import joined_rows
from luvc_export.runtime.generation.joined_rows import GrowingRow, OneAfterAnother, RowGroup, SharedCalls, pack_texts
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.session import Session

LENGTH = 12
QUESTIONS = [
    next(cases("heldout", 1, seed, (kind,))) for seed, kind in enumerate(("where_is", "digit_of_colour", "where_is"))
]


def back_ends() -> list[str]:
    return ["cpu", "openvino"]


@pytest.fixture(scope="module", params=back_ends())
def demo(request: pytest.FixtureRequest, demo_bundle: Bundle) -> Session:
    arithmetic = "auto" if request.param == "cpu" else "fp32"
    return Session(demo_bundle, request.param, "even", threads=1, arithmetic=arithmetic)


def started(demo: Session, question: Any, extra: str = "") -> GrowingRow:
    """A row after its prefill, forced to go on for ``LENGTH`` tokens."""
    request = demo.prepare(list(question.images), question.prompt + extra)
    step = demo.run(request.token_ids, demo.encode_images(request.images))
    sequence = TokenSequence(demo.encoder, Sampling(logprobs=0), frozenset(), LENGTH, request.token_ids)
    sequence.sample(step.logits[0, -1])
    sequence.piece()
    return GrowingRow(sequence, step.state, LENGTH)


def said(row: GrowingRow) -> tuple[list[int], list[float]]:
    """Tokens and their log probabilities."""
    return row.sequence.ids, [one.logprob for one in row.sequence.logprobs]


def alone(demo: Session, question: Any, extra: str = "") -> tuple[list[int], list[float]]:
    row, group = started(demo, question, extra), OneAfterAnother(demo)
    group.change([], [row])
    while not row.sequence.done:
        assert group.step() == [row]
        row.sequence.piece()
    return said(row)


def together(demo: Session) -> Iterator[tuple[int, GrowingRow]]:
    """One row; after three tokens two more of other lengths; after six the first goes; after nine another comes."""
    texts = ["", " Please look closely.", " Say it."]
    rows = [started(demo, question, text) for question, text in zip(QUESTIONS, texts, strict=True)]
    again = started(demo, QUESTIONS[0], " Again, in other words?")
    group: RowGroup = SharedCalls(demo, demo.backend)  # type: ignore[arg-type]
    group.change([], rows[:1])
    for step in range(40):
        if step == 3:
            group.change([], rows[1:])
        if step == 6:
            group.change([rows[0]], [])
        if step == 9:
            group.change([], [again])
        ended = [row for row in group.rows if row.sequence.done]
        if ended:
            group.change(ended, [])
        if not group.rows:
            break
        for row in group.step():
            row.sequence.piece()
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
        ids, logprobs = said(row)
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

    def unmasked(parts: Any) -> Any:
        arrays, mask = pack_texts(parts)
        return arrays, np.ones_like(mask)

    monkeypatch.setattr(joined_rows, "pack_texts", unmasked)
    assert furthest(demo) > 1e-2


def test_texts_are_packed_to_the_left() -> None:
    """Two visual rows, then text: a slot without a token disappears, the longest text decides the length."""
    first = np.arange(2 * 5, dtype=np.float32).reshape(2, 1, 5, 1)
    second = 100 + np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    parts = [
        ([first], 1, np.array([True, False, True])),
        ([second], 0, np.array([True, True])),
    ]
    (packed,), mask = pack_texts(parts)
    assert packed[:, 0, :, 0].tolist() == [[5, 6, 7, 9], [100, 101, 102, 103]]
    assert mask.tolist() == [[True, True], [True, True]]
    (packed,), mask = pack_texts([parts[0], ([second], 0, np.array([False, True]))])
    assert packed[1, 0, :, 0].tolist() == [100, 101, 103, 0] and mask.tolist() == [[True, True], [True, False]]
    with pytest.raises(AssertionError, match="rows of 3 and 2 visual tokens"):
        pack_texts([parts[0], ([second], 0, np.array([True]))])


def test_a_row_whose_logits_are_not_finite_fails_alone(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [started(demo, question) for question in QUESTIONS[:2]]
    group = SharedCalls(demo, demo.backend)  # type: ignore[arg-type]
    group.change([], rows)
    real = demo.backend.decode

    def broken(feeds: Any, cache: Any) -> Any:
        out, cache = real(feeds, cache)
        out["logits"] = out["logits"].copy()
        out["logits"][1] = np.nan
        return out, cache

    monkeypatch.setattr(demo.backend, "decode", broken)
    group.step()
    assert rows[0].failed is None and len(rows[0].sequence.ids) == 2
    assert rows[1].failed is not None and "not finite" in str(rows[1].failed)
