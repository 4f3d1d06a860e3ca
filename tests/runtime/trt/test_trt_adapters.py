"""Engines with slots on the stand-in GPU: they are handed the factors of a call, and answer as ONNX Runtime does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lora_bundle
import numpy as np
import ort_engine
import pytest
import stand_in
from checked_cuda.driver import checked_gpu
from numpy.typing import NDArray
from ort_engine import Engines

from luvc_export.bundle.folder import load
from luvc_export.bundle.manifest import MOST_SETS
from luvc_export.demo import IMAGE_SIZE
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import UsageError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.slots import TrtSlots

FORMS = ("concat", "inplace")
NAMES = [*lora_bundle.ADAPTERS]
TOKENS, ROWS = [10, 40, 41, 42], 4


def open_engines(lora: Path, kv: str, adapters: int) -> Engines:
    capacity = Capacity(text=96, batch=ROWS, adapters=adapters, rank=lora_bundle.RANK)
    return ort_engine.describe(load(lora / "slots"), "thirds", kv, capacity)


@pytest.fixture(scope="module")
def engines(lora: Path) -> dict[str, Engines]:
    return {kv: open_engines(lora, kv, len(NAMES)) for kv in FORMS}


@pytest.fixture(scope="module")
def expected(lora: Path) -> Session:
    return Session(lora / "slots", threads=1, lora={name: lora / name for name in NAMES})


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE, 3)).astype(np.uint8)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    return Gpu(library=stand_in.library())


def session(engines: Engines, gpu: Gpu, lora: Path, **options: Any) -> tuple[Session, dict[str, Any]]:
    backend, opened = engines.backend(gpu, **options)
    return Session(engines.bundle, backend, "thirds", lora={name: lora / name for name in NAMES}), opened


def logits(ours: Session, adapter: str | None) -> Iterator[NDArray[np.float32]]:
    """Of a prompt and of two tokens after it."""
    step = ours.default.run(TOKENS, adapter=ours.adapters.find(adapter))
    yield step.logits
    for token in (40, 41):
        step = ours.default.run([token], state=step.state)
        yield step.logits


class Seen:
    """A decoder session that keeps the inputs of its newest run."""

    def __init__(self, session: Any) -> None:
        self.session, self.inputs = session, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: Any, inputs: dict[str, Any]) -> Any:
        self.inputs = inputs
        return self.session.run(names, inputs)


@pytest.mark.parametrize("kv", FORMS)
def test_logits_are_ort_s_with_every_adapter_and_without(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, lora: Path, kv: str
) -> None:
    ours, _ = session(engines[kv], gpu, lora)
    base = [*logits(ours, None)]
    for name in (None, *NAMES, None):
        for own, theirs, plain in zip(logits(ours, name), logits(expected, name), base, strict=True):
            np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-4)
            assert (np.abs(own - plain).max() > 0.05) == (name is not None)


def test_the_engine_reads_the_factors_of_a_call(engines: dict[str, Engines], gpu: Gpu, lora: Path) -> None:
    """Rank 0 where nobody asks for an adapter, else the adapter's own numbers, in the types of the engine."""
    ours, opened = session(engines["inplace"], gpu, lora)
    ours.default.load(images=False)
    decoder = opened["decoder"]
    decoder._session = seen = Seen(decoder._session)
    kinds = {item.name: item.dtype for item in decoder._file.inputs}
    slots = ours.bundle.manifest.lora
    assert slots is not None and slots.inputs <= kinds.keys()
    for name, rank in ((None, 0), ("loud", 4), ("odd", 2), (None, 0)):
        adapter = ours.adapters.find(name)
        ours.default.run(TOKENS, adapter=adapter)
        assert seen.inputs["lora_rows"].tolist() == [[1.0] * rank]
        for slot, (entering, leaving) in slots.slots.items():
            own = adapter.factors.get(slot) if adapter else None
            for part, shape in (("a", (entering, rank)), ("b", (rank, leaving))):
                value = seen.inputs[f"lora.{slot}.{part}"]
                assert value.shape == shape and value.dtype == kinds[f"lora.{slot}.{part}"] == "float32"
                wanted = np.zeros(shape) if own is None else own["ab".index(part)]
                np.testing.assert_array_equal(value, wanted)


def asks(picture: NDArray[np.uint8]) -> list[Any]:
    named = [NAMES[0], None, NAMES[1], NAMES[2], None, NAMES[2], NAMES[0], NAMES[1]]
    return [{"image": picture, "prompt": f"left of {row}", "adapter": name} for row, name in enumerate(named)]


@pytest.mark.parametrize(("kv", "adapters"), [("inplace", len(NAMES)), ("concat", 1)])
def test_rows_with_three_adapters_answer_as_each_alone(
    expected: Session, gpu: Gpu, lora: Path, picture: NDArray[np.uint8], kv: str, adapters: int
) -> None:
    """Where an engine takes fewer in one call, rows with others wait."""
    ours, opened = session(open_engines(lora, kv, adapters), gpu, lora)
    ours.default.load(images=False)
    decoder = opened["decoder"]
    decoder._session = seen = Seen(decoder._session)
    options: dict[str, Any] = {"max_new_tokens": 6, "greedy": True}
    alone = [expected.generate(**ask, **options).token_ids for ask in asks(picture)]
    assert [one.token_ids for one in ours.generate_batch(asks(picture), **options)] == alone
    assert len({*alone}) > 2 and seen.inputs["lora_rows"].shape[1] <= adapters * lora_bundle.RANK


def test_rows_that_lose_their_adapters_are_noticed(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, lora: Path, picture: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    step = TrtSlots.step

    def bare(self: TrtSlots, tokens: Any, logits: bool = True) -> Any:
        self._places = {slot: replace(place, adapter=None) for slot, place in self._places.items()}
        return step(self, tokens, logits)

    monkeypatch.setattr(TrtSlots, "step", bare)
    ours, _ = session(engines["inplace"], gpu, lora)
    options: dict[str, Any] = {"max_new_tokens": 6, "greedy": True}
    alone = [expected.generate(**ask, **options).token_ids for ask in asks(picture)]
    assert [one.token_ids for one in ours.generate_batch(asks(picture), **options)] != alone


def test_each_set_of_adapters_has_a_graph_of_its_own(engines: dict[str, Engines], gpu: Gpu, lora: Path) -> None:
    """By turns, the third token of each is a launch and the engine is enqueued no more."""
    wanted = {name: [*logits(session(engines["inplace"], gpu, lora, graphs=False)[0], name)] for name in (None, "loud")}
    ours, opened = session(engines["inplace"], gpu, lora)
    ours.default.load(images=False)
    backend: Any = ours.backend
    for turn in range(4):
        for name, rows in wanted.items():
            before = len(opened["decoder"]._calls)
            for own, theirs in zip(logits(ours, name), rows, strict=True):
                np.testing.assert_array_equal(own, theirs)
            assert turn < 2 or len(opened["decoder"]._calls) - before <= 1, "but for the prompt"
    slots = [slot for held in backend._decoder._decode.values() for slot in held]
    assert len(slots) == 2 and all(slot.replay.graph is not None for slot in slots)
    for name in NAMES:
        assert [*logits(ours, name)]
    assert len(backend._decoder._decode) == MOST_SETS and opened["decoder"].contexts == 1 + MOST_SETS


@pytest.mark.parametrize("kv", FORMS)
def test_adapters_come_and_go_on_a_driver_that_checks(
    engines: dict[str, Engines], lora: Path, monkeypatch: pytest.MonkeyPatch, kv: str
) -> None:
    """Factors are given back behind the calls that read them, and nothing of them is left."""
    checked, driver = checked_gpu(monkeypatch)
    ours, _ = session(engines[kv], checked, lora)
    first = [*logits(ours, "loud")]
    [*logits(ours, None)]
    sets = len(driver.heap.live)
    for _ in range(3):
        state = ours.default.run(TOKENS, adapter=ours.adapters.find("terse")).state
        ours.adapters.unload("terse")
        ours.default.run([40], state=state)
        ours.adapters.load("terse", lora / "terse")
        ours.default.run(TOKENS, adapter=ours.adapters.find("odd"))
    for own, before in zip(logits(ours, "loud"), first, strict=True):
        np.testing.assert_array_equal(own, before)
    assert len(driver.heap.live) < sets + 40, "sets do not pile up"
    del ours, state
    gc.collect()


def test_more_adapters_than_an_engine_takes_are_refused(gpu: Gpu, lora: Path) -> None:
    ours, _ = session(open_engines(lora, "inplace", 0), gpu, lora)
    with pytest.raises(UsageError, match=r"does not fit the engine\n.*lora_rows, profile(.|\n)*larger capacities"):
        ours.default.run(TOKENS, adapter=ours.adapters.find("loud"))
