"""A request -> the pieces of its answer, token by token."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.generation.lookahead import following
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import Line
from luvc_export.runtime.generation.timing import Timings
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import State

if TYPE_CHECKING:
    from luvc_export.runtime.session import Session


@dataclass(frozen=True)
class Past:
    """A conversation so far: the session it ran in, the ids and images its caches hold, and where it stands."""

    session: Session
    token_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    state: State


def answer(
    session: Session, request: Request, options: Sampling, budget: int, ready: float, past: Past | None
) -> Generator[str, None, Generation]:
    """Generate. Only the work itself is timed, not what the reader of the stream does between pieces.

    Args:
        session: Runs the graphs.
        request: What is asked, all of it.
        options: How tokens are chosen.
        budget: Tokens at most.
        ready: Seconds that preparing took.
        past: What of the request is in the caches already.
    """
    whole, done = request, len(past.token_ids) if past else 0
    request = request.rest(done, len(past.images)) if past else request
    session.backend.load(images=len(request.images) > 0)
    line = Line(session.encoder, options, session.ends, budget)
    marks = [perf_counter()]
    seen = session.see(request.images)
    marks.append(perf_counter())
    step = session.run(request.token_ids, seen, past.state if past else None, blocks=request.blocks)
    marks.append(perf_counter())
    kept = step.kept
    line.choose(step.logits[0, -1])
    rest = following(session, line, step.state, budget)
    del step  # whose caches may be used again
    first, decoding = ready + perf_counter() - marks[0], 0.0
    while True:
        if piece := line.piece():
            yield piece
        if line.done:
            break
        begin = perf_counter()
        rest.advance(line)
        decoding += perf_counter() - begin
    cache = rest.state.cache
    visual = tuple(length - rest.state.past_text for length in cache.lengths)
    timings = Timings(
        preprocess_ms=ready * 1000,
        vision_ms=(marks[1] - marks[0]) * 1000 if len(request.images) else 0.0,
        prefill_ms=(marks[2] - marks[1]) * 1000,
        ttft_ms=first * 1000,
        decode_tokens=len(line.ids) - 1,
        decode_ms=decoding * 1000,
        kv_mib=cache.nbytes / 2**20,
        visual_tokens=visual,
    )
    selection = Selection(session.plan.grid, seen.merged_into, kept, request.placements, session.size, request.tiles)
    now = Past(session, (*whole.token_ids, *line.ids[:-1]), whole.images, rest.state)
    return Generation(line.text, tuple(line.ids), line.finish_reason, timings, visual, selection, done, now)


def goes_on(request: Request, past: Past) -> bool:
    """Whether a chat's next request begins with all that ``past`` holds, and has more."""
    held, shown = len(past.token_ids), len(past.images)
    same = request.token_ids[:held] == past.token_ids and len(request.token_ids) > held
    return same and np.array_equal(request.images[:shown], past.images)
