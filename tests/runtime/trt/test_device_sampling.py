"""Greedy decoding with the token chosen on the (stand-in) GPU, one step ahead of the host.

``STAND_IN_LAZY`` puts all work off until somebody waits, so that memory read too early or written too soon shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ort_engine
import pytest
import stand_in
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.runners.bundle import EngineCalls
from luvc_export.calibration.tasks import find
from luvc_export.core import graph_io
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.cuda import device
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import RowsState, State

CAPACITY = Capacity(text=96, groups=1, logits=96)
FORMS = ("concat", "inplace")
#: ``next_token`` int64 at 0 and ``next_logit`` float32 at 256, where an engine's next output may start.
BYTES_OF_A_STEP = 256 + 4
LENGTH = 6


@pytest.fixture(scope="module")
def engines(short_bundle: Bundle) -> dict[str, Engines]:
    return {kv: ort_engine.describe(short_bundle, "thirds", kv, CAPACITY) for kv in FORMS}


@pytest.fixture(scope="module")
def expected(short_bundle: Bundle) -> Session:
    return Session(short_bundle, plan="thirds", threads=1)


@pytest.fixture(scope="module")
def question() -> tuple[Any, str]:
    task = find("glyph")
    case = next(case for case in task.cases(task.report[0], 20, 5) if len(case.images) == 1)
    return case.images[0], case.prompt


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setenv("STAND_IN_LAZY", "1")
    return Gpu(library=stand_in.library())


@pytest.fixture
def brought(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every copy to the host, as they are asked for."""
    sizes: list[int] = []
    honest = gpu.download

    def download(target: int, address: int, nbytes: int, stream: int) -> None:
        sizes.append(nbytes)
        honest(target, address, nbytes, stream)

    monkeypatch.setattr(gpu, "download", download)
    return sizes


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch, engines: dict[str, Engines]) -> None:
    """Answers as long as they may be: the bundled model says one word."""
    monkeypatch.setattr("luvc_export.runtime.engine.generate.TokenSequence", _Endless)


class _Endless:
    def __new__(cls, encoder: Any, options: Any, ends: Any, budget: int, prompt: Any) -> Any:
        from luvc_export.runtime.generation.sequence import TokenSequence

        return TokenSequence(encoder, options, frozenset(), budget, prompt)


def session(engines: Engines, gpu: Gpu) -> tuple[Session, Any, dict[str, Any]]:
    backend, opened = engines.backend(gpu)
    return Session(engines.bundle, backend, "thirds"), backend, opened


@pytest.mark.parametrize("kv", FORMS)
def test_a_step_brings_its_token_and_no_logits(
    engines: dict[str, Engines],
    expected: Session,
    gpu: Gpu,
    brought: list[int],
    endless: None,
    question: tuple[Any, str],
    kv: str,
) -> None:
    ours, backend, opened = session(engines[kv], gpu)
    assert backend.capabilities.picks_tokens
    wanted = expected.generate(*question, max_new_tokens=LENGTH)
    assert len(wanted.token_ids) == LENGTH
    for _ in range(2):
        del brought[:]
        assert ours.generate(*question, max_new_tokens=LENGTH).token_ids == wanted.token_ids
        assert brought[2:] == [BYTES_OF_A_STEP] * (LENGTH - 1), "after the picture's and the prompt's"
    assert opened["decoder"].runs == 2 * LENGTH, "no step for nothing where the length is known"
    assert len(backend._caches.blocks()) == (1 if kv == "inplace" else 2)
    assert (next(iter(backend._decoder._decode.values()))[0].replay.graph is not None) == (kv == "inplace")


def test_an_answer_that_ends_early_leaves_a_state_to_go_on_from(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, question: tuple[Any, str]
) -> None:
    """One step has run for nothing; nobody notices, and what is said next is right."""
    for kv in FORMS:
        ours, _, opened = session(engines[kv], gpu)
        answers = [item.generate(*question) for item in (expected, ours)]
        assert answers[0].token_ids == answers[1].token_ids and answers[0].finish_reason == "stop"
        assert opened["decoder"].runs >= len(answers[0].token_ids)
        then = [
            item.default.run([answer.token_ids[-1], 5, 6], state=answer.past.state).logits
            for item, answer in zip((expected, ours), answers, strict=True)
        ]
        np.testing.assert_allclose(then[1], then[0], rtol=1e-4, atol=1e-4)


def test_drawing_takes_logits(
    engines: dict[str, Engines],
    expected: Session,
    gpu: Gpu,
    brought: list[int],
    endless: None,
    question: tuple[Any, str],
) -> None:
    drawing = {"temperature": 2.0, "seed": 1, "max_new_tokens": LENGTH}
    ours, _, _ = session(engines["inplace"], gpu)
    assert ours.generate(*question, **drawing).token_ids == expected.generate(*question, **drawing).token_ids
    assert min(brought[2:]) >= 4 * engines["inplace"].bundle.manifest.decoder.vocab


def test_engines_of_before_answer_as_before(
    short_bundle: Bundle, expected: Session, gpu: Gpu, endless: None, question: tuple[Any, str]
) -> None:
    ours, backend, _ = session(ort_engine.describe(short_bundle, "thirds", "inplace", CAPACITY, next_token=False), gpu)
    assert not backend.capabilities.picks_tokens
    wanted = expected.generate(*question, max_new_tokens=LENGTH)
    assert ours.generate(*question, max_new_tokens=LENGTH).token_ids == wanted.token_ids
    request = ours.prepare(*question)
    with pytest.raises(UsageError, match=r"pick no tokens\n(.|\n)*build --target stand-in again"):
        sampled(ours, 5, ours.default.run(request.token_ids, ours.default.encode_images(request.images)).state)


def sampled(ours: Session, token: Any, state: Any) -> tuple[Any, Any]:
    """The token that the device picks behind ``token``, before it is there, and where the conversation stands then."""
    mask = np.ones((1, state.past_text), np.bool_)
    places = np.array([state.next_position], np.int64), np.array([state.next_order], np.int64)
    picked, cache = ours.default.graphs.sample(token, RowsState(state.cache, mask, *places, (None,)))
    return picked, State(cache, state.past_text + 1, state.next_position + 1, state.next_order + 1)


def steps(ours: Session, question: tuple[Any, str], count: int) -> list[Any]:
    """``count`` steps put on the stream one after another, none of them read."""
    request = ours.prepare(*question)
    first = ours.default.run(request.token_ids, ours.default.encode_images(request.images))
    token: Any = int(first.logits[0, -1].argmax())
    assert first.chosen == token
    tokens, state = [], first.state
    for _ in range(count):
        token, state = sampled(ours, token, state)
        tokens.append(token)
    return tokens


def test_many_steps_may_be_under_way(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, endless: None, question: tuple[Any, str]
) -> None:
    wanted = expected.generate(*question, max_new_tokens=LENGTH).token_ids[1:]
    for kv in FORMS:
        tokens = steps(session(engines[kv], gpu)[0], question, LENGTH - 1)
        assert tuple(item.read()[0] for item in tokens) == wanted
        assert tokens[0].read()[0] == wanted[0], "read again"


def test_a_token_that_is_not_the_newest_goes_by_the_host(
    engines: dict[str, Engines], gpu: Gpu, question: tuple[Any, str]
) -> None:
    ours, _, _ = session(engines["concat"], gpu)
    request = ours.prepare(*question)
    first = ours.default.run(request.token_ids, ours.default.encode_images(request.images))
    old, after = sampled(ours, 5, first.state)
    new, _ = sampled(ours, old, after)
    sampled(ours, 7, first.state)
    again, _ = sampled(ours, old, after)
    assert again.read() == new.read()


@pytest.mark.parametrize("broken", ["host memory is taken too soon", "the token does not go on", "another token"])
def test_sabotage(
    engines: dict[str, Engines],
    expected: Session,
    gpu: Gpu,
    endless: None,
    question: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    wanted = expected.generate(*question, max_new_tokens=LENGTH).token_ids[1:]
    ours, backend, opened = session(engines["inplace"], gpu)
    backend.load()
    if broken == "another token":
        opened["decoder"].sabotage[graph_io.NEXT_TOKEN] = lambda token: token + 1
        with pytest.raises(AssertionError):
            steps(ours, question, 1)
        assert ours.generate(*question, max_new_tokens=LENGTH).token_ids[1:] != wanted
        return
    if broken == "host memory is taken too soon":
        monkeypatch.setattr(device.StagingBuffer, "take", _grow_only)
    else:
        monkeypatch.setattr(gpu, "copy", lambda *_: None)
    tokens = steps(ours, question, LENGTH - 1)
    assert tuple(item.read()[0] for item in tokens) != wanted


def _grow_only(turn: Any, inputs: int, outputs: int) -> None:
    turn.given = turn.given if inputs <= turn.given.nbytes else turn._gpu.pinned(inputs)
    turn.made = turn.made if outputs <= turn.made.nbytes else turn._gpu.pinned(outputs)


def test_logits_that_are_not_finite_are_said(
    engines: dict[str, Engines], gpu: Gpu, endless: None, question: tuple[Any, str]
) -> None:
    ours, _, opened = session(engines["inplace"], gpu)
    ours.generate(*question, max_new_tokens=2)
    opened["decoder"].sabotage[graph_io.NEXT_LOGIT] = lambda logit: logit * np.inf
    with pytest.raises(CheckFailed, match=r"logits are not finite\n.*answer token 1\n"):
        ours.generate(*question, max_new_tokens=LENGTH)


def test_parity_holds_the_chosen_token_against_the_logits(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, question: tuple[Any, str]
) -> None:
    ours, backend, opened = session(engines["inplace"], gpu)
    bundle, request, asked = engines["inplace"].bundle, ours.prepare(*question), []
    calls = EngineCalls(backend, bundle.engine("thirds"), bundle)
    honest = backend.decode
    backend.decode = lambda feeds, cache: asked.append(feeds) or honest(feeds, cache)  # type: ignore[func-returns-value]
    ours.default.run(request.token_ids, ours.default.encode_images(request.images), all_logits=True)
    calls.decode(asked[0], None, None)
    opened["decoder"].sabotage[graph_io.NEXT_TOKEN] = lambda token: token + 1
    with pytest.raises(CheckFailed, match=r"another token than its logits say"):
        calls.decode(asked[0], None, None)
