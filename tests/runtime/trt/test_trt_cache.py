"""States keep their promise: random orders of continuing, keeping and dropping them against a plain list of values."""

from __future__ import annotations

import numpy as np
import stand_in
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.runtime.cuda.device import Gpu, Memory
from luvc_export.runtime.cuda.pool import Pool
from luvc_export.runtime.tensorrt.cache_memory import TrtCache, behind

ROWS = 16


class Model:
    """A cache of one byte a token, written in place or from block to block, as the two KV forms do."""

    def __init__(self, inplace: bool) -> None:
        self.gpu, self.inplace = Gpu(library=stand_in.library()), inplace
        self.stream, self.host = self.gpu.new_stream(), self.gpu.pinned(ROWS)
        self.pool = Pool(lambda: self.gpu.allocate(ROWS, "test"))
        self.copies = 0

    def step(self, cache: TrtCache | None, token: int) -> TrtCache:
        text = cache.text if cache else 0
        if self.inplace:
            block = behind(self.pool, cache, self.copy) if cache else self.pool.free()
        else:
            block = self.pool.free()
            if cache:
                self.gpu.copy(block.memory.address, cache.block.memory.address, text, self.stream)
        self.gpu.synchronize(self.stream)  # what was there may still be on its way
        self.host.array()[0] = token
        self.gpu.upload(block.memory.address + text, self.host.address, 1, self.stream)
        return TrtCache(block, (text + 1,), text + 1, 0)

    def copy(self, target: Memory, source: Memory) -> None:
        self.copies += 1
        self.gpu.copy(target.address, source.address, source.nbytes, self.stream)

    def read(self, cache: TrtCache) -> list[int]:
        self.gpu.download(self.host.address, cache.block.memory.address, ROWS, self.stream)
        self.gpu.synchronize(self.stream)
        return [int(value) for value in self.host.array()[: cache.text]]


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=25))
def test_a_state_that_is_held_never_changes(inplace: bool, moves: list[tuple[int, bool]]) -> None:
    """Each move continues one of the held states (or begins anew) and may drop the one it came from."""
    model = Model(inplace)
    held: list[tuple[TrtCache, list[int]]] = []
    for token, (choice, drop) in enumerate(moves, 1):
        index = choice % (len(held) + 1)
        cache, values = held[index] if index < len(held) else (None, [])
        if len(values) == ROWS:
            continue
        after = model.step(cache, token)
        if drop and cache is not None:
            del held[index]
        held.append((after, [*values, token]))
        del cache, after
        for state, wanted in held:
            assert model.read(state) == wanted
        del state


def answer(model: Model, tokens: int) -> TrtCache:
    state = model.step(None, 1)
    for token in range(2, tokens + 1):
        state = model.step(state, token)
    return state


def test_an_ordinary_answer_copies_nothing_and_needs_no_more_memory() -> None:
    for inplace, blocks in ((True, 1), (False, 2)):
        model = Model(inplace)
        for _ in range(3):
            answer(model, 10)
        assert (len(model.pool), model.copies) == (blocks, 0)


def test_a_branch_copies_once_and_its_block_is_used_again() -> None:
    model = Model(inplace=True)
    first = model.step(None, 1)
    left = model.step(first, 2)
    right = model.step(first, 3)
    assert model.copies == 1 and len(model.pool) == 2
    assert np.array_equal(model.read(left), [1, 2]) and model.read(right) == [1, 3]
    del left
    model.step(first, 4)
    assert model.copies == 1
    del first, right
    answer(model, 3)
    assert len(model.pool) == 2
