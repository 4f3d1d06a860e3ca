"""Several questions in one call: every row answers as it does alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.demo.questions import cases
from luvc_export.errors import UsageError
from luvc_export.runtime import batching
from luvc_export.runtime.engine.generate_batch import Ask, Prepared
from luvc_export.runtime.session import Session

#: What is asked: answers of one token and of several.
KINDS = ("digit_of_colour", "where_is", "two_pictures")


@pytest.fixture(scope="module")
def demo(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, threads=1)


def asks() -> list[Ask]:
    """Held-out questions of different lengths about one picture and two, one inside the text, one without a picture."""
    first, second, two = (next(cases("heldout", 1, seed, (kind,))) for seed, kind in enumerate(KINDS))
    inside = [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "text", "text": second.prompt}]
    return [
        {"image": first.images[0], "prompt": first.prompt},
        {"prompt": "Hello"},
        {"image": second.images[0], "messages": [{"role": "user", "content": inside}]},
        {"image": list(two.images), "prompt": two.prompt},
        {"image": second.images[0], "prompt": second.prompt},
    ]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5, "seed": 5}], ids=["greedy", "drawn"])
def test_each_row_answers_as_alone(demo: Session, sampling: dict[str, Any]) -> None:
    """Rows end at different steps: greedy answers have different lengths."""
    together = demo.generate_batch(asks(), max_new_tokens=12, **sampling)
    alone = [demo.generate(**ask, max_new_tokens=12, **sampling) for ask in asks()]
    assert sampling or len({len(answer.token_ids) for answer in alone}) > 1
    for row, own in zip(together, alone, strict=True):
        assert (row.text, row.token_ids, row.finish_reason) == (own.text, own.token_ids, own.finish_reason)
        assert row.visual_tokens == own.visual_tokens
        assert row.selection.placements == own.selection.placements
        assert {layer: kept.tolist() for layer, kept in row.selection.kept.items()} == {
            layer: kept.tolist() for layer, kept in own.selection.kept.items()
        }
        assert row.timings.decode_tokens == own.timings.decode_tokens


def test_padding_that_is_seen_moves_an_answer(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above fails where padding is not masked."""
    real = batching.feeds

    def unmasked(*arguments: Any, **named: Any) -> batching.Feeds:
        feeds = real(*arguments, **named)
        feeds[graph_io.TEXT_MASK] = np.ones_like(feeds[graph_io.TEXT_MASK])
        return feeds

    rows = [ask for ask in asks() if isinstance(ask.get("image"), np.ndarray)]
    alone = [demo.generate(**ask, max_new_tokens=12).token_ids for ask in rows]
    monkeypatch.setattr(batching, "feeds", unmasked)
    assert [row.token_ids for row in demo.generate_batch(rows, max_new_tokens=12)] != alone


def test_rows_with_equally_many_images_run_together(demo: Session) -> None:
    requests = [demo.prepare(ask.get("image"), ask.get("prompt"), ask.get("messages")) for ask in asks()]
    ready = [Prepared(demo.default, request, 1) for request in requests]
    assert demo.batches_of(ready) == [[0, 2, 4], [1], [3]]
    assert demo.batches_of(ready, 2) == [[0, 2], [4], [1], [3]]
    assert demo.generate_batch([]) == []


def test_what_a_row_gets_wrong_is_said_before_anything_runs(session: Session, picture: NDArray[np.uint8]) -> None:
    good: Ask = {"image": picture, "prompt": "hello"}
    with pytest.raises(UsageError, match=r"there is no such picture file\n  where: requests\[1\]: gone\.png"):
        session.generate_batch([good, {"image": "gone.png", "prompt": "?"}])
    with pytest.raises(UsageError, match=r"longer than the model's context\n  where: requests\[2\]: prompt"):
        session.generate_batch([good, good, {"prompt": "x" * 65}])
    with pytest.raises(UsageError, match=r"unknown part(.|\n)*requests\[0\](.|\n)*see image"):
        session.generate_batch([{"images": picture, "prompt": "?"}])  # type: ignore[list-item, typeddict-unknown-key]
    with pytest.raises(UsageError, match="unknown sampling option"):
        session.generate_batch([good], heat=1)


def test_a_back_end_of_one_row_answers_one_after_another(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, batches = demo.generate_batch(asks(), max_new_tokens=4), list[int]()
    real = demo.backend.decode

    def watched(feeds: Any, cache: Any) -> Any:
        batches.append(len(feeds[graph_io.INPUT_IDS]))
        return real(feeds, cache)

    monkeypatch.setattr(demo.backend, "decode", watched)
    demo.generate_batch(asks(), max_new_tokens=4)
    assert max(batches) == 3
    batches.clear()
    monkeypatch.setattr(demo.backend, "capabilities", replace(demo.backend.capabilities, rows=1))
    one_by_one = demo.generate_batch(asks(), max_new_tokens=4)
    assert set(batches) == {1} and [one.token_ids for one in one_by_one] == [one.token_ids for one in wanted]
