"""A session on the checking driver: a share of ``python -m checked_cuda``, and faults of the runtime found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from checked_cuda import sequences
from checked_cuda.sequences import Asked, Machine
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import LuvcError
from luvc_export.runtime.cuda.device import Gpu, StagingBuffer
from luvc_export.runtime.tensorrt import cache_memory, execution_slot
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory

SEED, SHARE = 3, 6


@pytest.fixture(scope="module")
def engines(short_bundle: Bundle) -> dict[str, Engines]:
    return sequences.engines(short_bundle)


@pytest.fixture(scope="module")
def questions(short_bundle: Bundle) -> list[Asked]:
    return sequences.asked(short_bundle)


@pytest.mark.parametrize("kv", sequences.FORMS)
def test_random_sequences(engines: dict[str, Engines], questions: list[Asked], kv: str) -> None:
    machine = Machine(engines[kv], questions, random.Random(SEED), graphs=True)
    for _ in range(SHARE):
        machine.sequence()
    assert machine.close().calls["cuGraphLaunch"] > 0


def two_answers(engines: Engines, questions: list[Asked]) -> None:
    """One after another, and their steps among them."""
    machine = Machine(engines, questions, random.Random(1), graphs=True)
    try:
        for one in questions[:2]:
            got = machine.session.generate(one.image, one.prompt, max_new_tokens=sequences.LONGEST).token_ids
            assert got == one.answer, "another answer"
        assert not machine.driver.violations, machine.driver.violations
    finally:
        machine.driver.abandoned = True


@pytest.fixture(params=["early", "staging", "scratch", "cleared", "stream", "size"])
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Breaks the runtime; gives what the driver says of it."""
    if request.param == "early":  # the token is what lies in memory while a copy is under way
        monkeypatch.setattr("luvc_export.runtime.cuda.device.Event.wait", lambda self: None)
        yield "the tokenizer fails|another answer"
    elif request.param == "staging":

        def take(self: StagingBuffer, inputs: int, outputs: int) -> None:
            self.given = self.given if inputs <= self.given.nbytes else self._gpu.pinned(inputs, self.event)
            self.made = self.made if outputs <= self.made.nbytes else self._gpu.pinned(outputs, self.event)

        monkeypatch.setattr(StagingBuffer, "take", take)
        monkeypatch.setattr(execution_slot, "_STAGING", 1)
        yield "the host wrote to pinned memory"
    elif request.param == "scratch":
        honest = execution_slot.Buffer.reserve
        monkeypatch.setattr(execution_slot.Buffer, "reserve", lambda self, nbytes: honest(self, nbytes // 2))
        yield "bytes of which .* lie in device memory"
    elif request.param == "cleared":
        monkeypatch.setattr(Gpu, "clear", lambda *arguments: None)
        yield "an engine reads byte .* which nobody wrote"
    elif request.param == "stream":
        honest_copy = Gpu.upload
        others: dict[int, int] = {}

        def upload(self: Gpu, address: int, source: int, nbytes: int, stream: int) -> None:
            other = others.setdefault(id(self), 0) or self.new_stream()
            others[id(self)] = other
            honest_copy(self, address, source, nbytes, other)

        monkeypatch.setattr(Gpu, "upload", upload)
        yield "nothing orders the two"
    else:
        honest_piece = CacheMemory.blocks

        def blocks(self: Any, batch: int = 1) -> Any:
            pool = honest_piece(self, batch)
            half = partial(cache_memory._cleared, self.gpu, self.stream, self.kv.region.nbytes // 2)
            monkeypatch.setattr(pool, "_allocate", half)
            return pool

        monkeypatch.setattr(CacheMemory, "blocks", blocks)
        yield "bytes of which .* lie in|nothing is allocated"


def test_a_fault_in_the_runtime_is_found(engines: dict[str, Engines], questions: list[Asked], fault: str) -> None:
    with pytest.raises((AssertionError, LuvcError), match=fault):
        two_answers(engines["inplace"], questions)
