"""A request -> the pieces of its answer, token by token."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.backend import DeviceSampler, PendingToken
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import Timings
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import State


@dataclass(frozen=True)
class Past:
    """A conversation so far: the plan it ran with, the ids and images its caches hold, and where it stands."""

    loaded: LoadedPlan
    token_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    state: State


def answer(
    loaded: LoadedPlan, request: Request, options: Sampling, budget: int, ready: float, past: Past | None
) -> Generator[str, None, Generation]:
    """Generate. Only the work itself is timed, not what the reader of the stream does between pieces.

    Args:
        loaded: Runs the graphs.
        request: What is asked, all of it.
        options: How tokens are chosen.
        budget: Tokens at most.
        ready: Seconds that preparing took.
        past: What of the request is in the caches already.
    """
    whole, done = request, len(past.token_ids) if past else 0
    request = request.rest(done, len(past.images)) if past else request
    loaded.load(images=len(request.images) > 0)
    sequence = TokenSequence(loaded.encoder, options, loaded.ends, budget, whole.token_ids)
    marks = [perf_counter()]
    features = loaded.encode_images(request.images, request.padding, request.units)
    marks.append(perf_counter())
    step = loaded.run(request.token_ids, features, past.state if past else None, blocks=request.blocks)
    marks.append(perf_counter())
    kept = step.kept
    sequence.sample(step.logits[0, -1])
    source = token_source(loaded, sequence, step.state, budget)
    del step  # whose caches may be used again
    first, decoding = ready + perf_counter() - marks[0], 0.0
    while True:
        if piece := sequence.piece():
            yield piece
        if sequence.done:
            break
        begin = perf_counter()
        source.advance(sequence)
        decoding += perf_counter() - begin
    cache = source.state.cache
    visual = tuple(length - source.state.past_text for length in cache.lengths)
    timings = Timings(
        preprocess_ms=ready * 1000,
        vision_ms=(marks[1] - marks[0]) * 1000 if len(request.images) else 0.0,
        prefill_ms=(marks[2] - marks[1]) * 1000,
        ttft_ms=first * 1000,
        decode_tokens=len(sequence.ids) - 1,
        decode_ms=decoding * 1000,
        kv_mib=cache.nbytes / 2**20,
        visual_tokens=visual,
    )
    where = request.placements, loaded.size, request.tiles, request.padding, request.novel
    selection = Selection(loaded.plan.grid, features.merged_into, kept, *where)
    now = Past(loaded, (*whole.token_ids, *sequence.ids[:-1]), whole.images, source.state)
    made = sequence.text, tuple(sequence.ids), sequence.finish_reason, timings, visual, selection, done, now
    return Generation(
        *made, backend=loaded.backend.name, arithmetic=loaded.backend.arithmetic, logprobs=sequence.asked_logprobs
    )


def goes_on(request: Request, past: Past) -> bool:
    """Whether a chat's next request begins with all that ``past`` holds, and has more."""
    held, shown = len(past.token_ids), len(past.images)
    same = request.token_ids[:held] == past.token_ids and len(request.token_ids) > held
    return same and np.array_equal(request.images[:shown], past.images)


class TokenSource(Protocol):
    """Adds tokens to a sequence. ``state`` holds all of them but the last."""

    state: State

    def advance(self, sequence: TokenSequence) -> None:
        """Add one token.

        Raises:
            CheckFailed: The logits are not finite.
        """


def token_source(loaded: LoadedPlan, sequence: TokenSequence, state: State, budget: int) -> TokenSource:
    """Where tokens after the first come from: the device, where it samples and drawing needs no logits."""
    backend = loaded.backend
    if sequence.greedy and isinstance(backend, DeviceSampler) and backend.samples:
        return Lookahead(loaded, sequence.ids[-1], state, budget - 1)
    return HostSampling(loaded, state)


class HostSampling:
    """Logits come to the host at every step, which samples."""

    def __init__(self, loaded: LoadedPlan, state: State) -> None:
        self._loaded, self.state = loaded, state

    def advance(self, sequence: TokenSequence) -> None:
        """See ``TokenSource``."""
        step = self._loaded.run(sequence.ids[-1:], state=self.state)
        self.state = step.state
        sequence.sample(step.logits[0, -1])


class Lookahead:
    """The device samples; while the host takes a token, the step that goes on from it runs already.

    The step that is under way when an answer ends was for nothing. It wrote behind ``state``, which never notices.

    Args:
        loaded: Runs the graphs.
        first: The token to go on from.
        state: Before it.
        steps: Tokens at most.
    """

    def __init__(self, loaded: LoadedPlan, first: int, state: State, steps: int) -> None:
        self._loaded, self._first, self._left = loaded, first, steps
        self.state = state
        self._under_way: tuple[PendingToken, State] | None = None

    def advance(self, sequence: TokenSequence) -> None:
        """See ``TokenSource``."""
        token, self.state = self._under_way or self._start(self._first)
        self._under_way = self._start(token) if self._left else None
        sequence.append(*token.read())

    def _start(self, token: int | PendingToken) -> tuple[PendingToken, State]:
        self._left -= 1
        return self._loaded.sample(token, self.state)
