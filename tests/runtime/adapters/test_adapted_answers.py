"""Bundles with slots on real engines: the base model as it was, adapters as merged weights, rows of a batch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lora_bundle
import numpy as np
import pytest
from growing import stepped
from numpy.typing import NDArray
from slow_cases import slow_but

from luvc_export import load_bundle
from luvc_export.demo import IMAGE_SIZE
from luvc_export.errors import UsageError
from luvc_export.runtime.adapters.factors import Factors
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.session import Session

NAMES = [*lora_bundle.ADAPTERS]
TOKENS = [10, 40, 41, 42]


def open_session(lora: Path, name: str, backend: str = "cpu", **options: Any) -> Session:
    folders = {one: lora / one for one in NAMES} if name == "slots" else None
    return Session(lora / name, backend, threads=1, lora=folders, **options)


@pytest.fixture(scope="module")
def slots(lora: Path) -> Session:
    return open_session(lora, "slots")


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE, 3)).astype(np.uint8)


def logits(session: Session, picture: NDArray[np.uint8], adapter: str | None = None) -> list[NDArray[np.float32]]:
    """Of a prompt with a picture and of two tokens after it."""
    request = session.prepare(picture, "left of 5")
    seen = session.default.encode_images(*request.shown())
    own = session.adapters.find(adapter)
    step = session.default.run(request.token_ids, seen, blocks=request.blocks, all_logits=True, adapter=own)
    steps = [step.logits]
    for token in (40, 41):
        step = session.default.run([token], state=step.state)
        steps.append(step.logits)
    return steps


def test_empty_slots_change_no_bit(lora: Path, picture: NDArray[np.uint8]) -> None:
    """Before an adapter is asked for, when the decoder is opened without slots, and after it."""
    session, plain = open_session(lora, "slots"), logits(open_session(lora, "plain"), picture)
    before, had = logits(session, picture), slots_of(session)
    adapted, has = logits(session, picture, "loud"), slots_of(session)
    assert had == 0 < has and not np.array_equal(adapted[0], plain[0])
    for both in zip(before, logits(session, picture), plain, strict=True):
        np.testing.assert_array_equal(both[0], both[2])
        np.testing.assert_array_equal(both[1], both[2])


def slots_of(session: Session) -> int:
    """Inputs of the opened decoder that adapters are."""
    return sum(name.startswith("lora") for name in session.backend._decoder_inputs)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("backend", "arithmetic", "tolerance"),
    slow_but(["cpu"], [("cpu", "fp32", 1e-5), ("openvino", "fp32", 1e-5), ("openvino", "bf16", 0.03)]),
)
def test_an_adapter_is_what_its_merged_weights_are(
    lora: Path, picture: NDArray[np.uint8], backend: str, arithmetic: str, tolerance: float
) -> None:
    """Merged by peft itself."""
    if arithmetic == "bf16" and "bf16" not in devices.find("CPU").arithmetics:
        pytest.skip("this CPU has no bf16")
    how = {} if backend == "cpu" else {"arithmetic": arithmetic}
    session = open_session(lora, "slots", backend, **how)
    merged = open_session(lora, "merged", "cpu")
    for own, whole, base in zip(
        logits(session, picture, "loud"), logits(merged, picture), logits(session, picture), strict=True
    ):
        scale = np.abs(whole).max()
        assert np.abs(own - whole).max() < tolerance * scale
        assert np.abs(base - whole).max() > 0.05 * scale, "the adapter changes answers"


@pytest.mark.slow(beside="runtime/adapters/test_adapted_answers.py::test_an_adapter_is_what_its_merged_weights_are")
def test_openvino_compiles_slots_when_an_adapter_asks_for_them(lora: Path, picture: NDArray[np.uint8]) -> None:
    """Without them products are fused as in a bundle that has none; what was answered goes on after it."""
    session, plain = open_session(lora, "slots", "openvino"), open_session(lora, "plain", "openvino")
    before, request = logits(session, picture), session.prepare(picture, "left of 5")
    for own, whole in zip(before, logits(plain, picture), strict=True):
        np.testing.assert_array_equal(own, whole)
    assert products(session) == products(plain)
    state = session.default.run(request.token_ids, session.default.encode_images(*request.shown())).state
    adapted = logits(session, picture, "loud")
    assert not np.array_equal(adapted[0], before[0]) and products(session) != products(plain)
    after = [session.default.run([40], state=state).logits, *logits(session, picture)]
    for own, whole in zip(after, [before[1], *before], strict=True):
        np.testing.assert_allclose(own, whole, atol=0.03 * np.abs(whole).max())


def products(session: Session) -> dict[str, int]:
    """How many products of each kind the compiled decoder has."""
    backend = session.backend
    assert isinstance(backend, OpenVinoBackend)
    kinds = backend.precisions()["decoder"]
    return {kind: sum(kinds[kind].values()) for kind in ("FullyConnected", "MatMul", "LLMMLP") if kind in kinds}


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_rows_of_several_adapters_in_one_call(lora: Path, backend: str) -> None:
    session = open_session(lora, "slots", backend, **({} if backend == "cpu" else {"arithmetic": "fp32"}))
    graphs = session.default.graphs
    named = [None, *NAMES, *NAMES[::-1], None]
    rows = [session.adapters.find(name) for name in named]
    together = graphs.prefill([TokensPrompt(TOKENS, adapter=row) for row in rows])
    after = stepped(graphs, [40] * len(rows), together.state)
    seen = set()
    for index, row in enumerate(rows):
        alone = graphs.run(TOKENS, adapter=row)
        np.testing.assert_allclose(together.logits[index], alone.logits[0, -1], atol=1e-4)
        next_ = graphs.run([40], state=alone.state)
        np.testing.assert_allclose(after.logits[index], next_.logits[0, -1], atol=1e-4)
        seen.add(round(float(next_.logits[0, -1, 0]), 3))
    assert len(seen) == 1 + len(NAMES), "each adapter answers otherwise"


def test_rows_that_see_each_other_s_adapters_are_noticed(slots: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    loud, terse = (slots.adapters.find(name) for name in ("loud", "terse"))
    assert loud is not None and terse is not None
    alone = slots.default.graphs.run(TOKENS, adapter=loud).logits[0, -1]
    monkeypatch.setattr(Factors, "_rows", lambda self, rows, held: np.ones((len(rows), loud.rank + terse.rank), "f4"))
    together = slots.default.graphs.prefill([TokensPrompt(TOKENS, adapter=one) for one in (loud, terse)])
    assert np.abs(together.logits[0] - alone).max() > 0.1


@pytest.mark.parametrize("speculate", [None, "lookup"])
def test_answers_of_a_batch(lora: Path, picture: NDArray[np.uint8], speculate: str | None) -> None:
    session = open_session(lora, "slots", speculate=speculate)
    named = [NAMES[0], None, NAMES[1], NAMES[2], None, NAMES[2], NAMES[0], NAMES[1]]
    asks: list[Any] = [
        {"image": picture, "prompt": f"left of {row}", "adapter": name} for row, name in enumerate(named)
    ]
    options: dict[str, Any] = {"max_new_tokens": 6, "greedy": True}
    alone = [session.generate(**ask, **options) for ask in asks]
    assert [one.text for one in session.generate_batch(asks, **options)] == [one.text for one in alone]
    assert len({one.token_ids for one in alone}) > 2


def test_a_chat_goes_on_with_its_own_adapter(slots: Session, picture: NDArray[np.uint8]) -> None:
    options: dict[str, Any] = {"max_new_tokens": 3, "greedy": True}
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "left of 5"}]}
    first = slots.generate(picture, messages=[asked], adapter="loud", **options)
    chat = [asked, {"role": "assistant", "content": first.text}, {"role": "user", "content": "left of 6"}]
    same = slots.generate(picture, messages=chat, after=first, adapter="loud", **options)
    other = slots.generate(picture, messages=chat, after=first, adapter="terse", **options)
    base = slots.generate(picture, messages=chat, after=first, **options)
    assert same.reused > 0 and other.reused == base.reused == 0
    assert other.token_ids == slots.generate(picture, messages=chat, adapter="terse", **options).token_ids
    assert base.token_ids == slots.generate(picture, messages=chat, **options).token_ids


def test_names_that_nobody_loaded(lora: Path, slots: Session) -> None:
    with pytest.raises(UsageError, match=r"no such adapter(.|\n)*lout(.|\n)*loud"):
        slots.generate(prompt="left of 5", adapter="lout")
    with pytest.raises(UsageError, match=r"requests\[0\](.|\n)*lout"):
        slots.generate_batch([{"prompt": "left of 5", "adapter": "lout"}])
    with pytest.raises(UsageError, match=r"no slots for adapters(.|\n)*--lora-slots"):
        load_bundle(lora / "plain", "cpu", lora={"loud": lora / "loud"})
