"""A request -> the pieces of its answer, token by token."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import Manifest
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.engine.job import Job, Past
from luvc_export.runtime.engine.scheduler import Engine, began
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import DraftCounts, PhaseSeconds, Timings
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request


def past_of(after: Generation | None, manifest: Manifest) -> Past | None:
    """What ``after`` left in the caches.

    Raises:
        UsageError: The model sees its whole prompt both ways, so what an earlier one left would be others' values.
    """
    if after is not None and manifest.prompt.prefix is not None:
        raise UsageError(
            "this model sees its whole prompt both ways, so nothing of an earlier turn can be kept",
            where="after",
            got="an answer",
            expected="one question at a time",
            fix="leave after= out, and ask with prompt=",
        )
    return after.past if after else None


def answer(
    loaded: LoadedPlan,
    request: Request,
    options: Sampling,
    budget: int,
    ready: float,
    past: Past | None = None,
    cache: FeatureCache | None = None,
) -> Generator[str, None, Generation]:
    """Generate: one job of an engine. Only its own work is timed, not what the reader of the stream does.

    Args:
        loaded: Runs the graphs.
        request: What is asked, all of it.
        options: How tokens are chosen.
        budget: Tokens at most.
        ready: Seconds that preparing took.
        past: What of the request is in the caches already.
        cache: Of visual features; None keeps none.
    """
    sequence = TokenSequence(loaded.encoder, options, loaded.ends, budget, request.token_ids)
    engine = Engine(cache, answers=1)
    engine.submit(job := Job(loaded, request, lambda room: [sequence], past=past, keeps=True))
    prefilled, (grown,) = began(engine.step(), job)
    first, decoding = ready + perf_counter() - prefilled.begun_at, 0.0
    while True:
        grown.check()
        if piece := sequence.piece():
            yield piece
        if sequence.done:
            break
        begin = perf_counter()
        engine.step()
        decoding += perf_counter() - begin
    state, reused = grown.state, len(past.token_ids) if past else 0
    assert state is not None
    spent = PhaseSeconds(ready, prefilled.vision_ms / 1000, prefilled.prefill_ms / 1000, first, decoding)
    visual = loaded.plan.cache_rows(len(request.images) // loaded.plan.sharing.images, 0)
    now = Past(loaded, (*request.token_ids, *sequence.ids[:-1]), request.images, state, prefilled.features)
    rest = request.rest(reused, len(past.images)) if past else request
    selection = selection_of(loaded, rest, prefilled.merged_into, prefilled.kept)
    return generation(loaded, sequence, spent, state.cache.nbytes, visual, selection, reused, now, grown.drafts)


def selection_of(
    loaded: LoadedPlan,
    request: Request,
    merged_into: NDArray[np.int64] | None,
    kept: Mapping[int, NDArray[np.int64]],
) -> Selection:
    """What became of a request's pictures; ``merged_into`` and ``kept`` as of ``Selection``."""
    return Selection(
        grid=loaded.plan.grid,
        merged_into=merged_into,
        kept=dict(kept),
        placements=request.placements,
        size=loaded.size,
        tiles=request.tiles,
        padding=request.padding,
        novel=request.novel,
    )


def generation(
    loaded: LoadedPlan,
    sequence: TokenSequence,
    spent: PhaseSeconds,
    nbytes: float,
    visual: tuple[int, ...],
    selection: Selection,
    reused: int = 0,
    past: Past | None = None,
    drafts: DraftCounts | None = None,
) -> Generation:
    """A whole answer.

    Args:
        loaded: What ran it.
        sequence: Its tokens, done.
        spent: What it took; of an answer without pictures or of one token no time for them counts.
        nbytes: Bytes of its caches.
        visual: Visual tokens in each layer's cache.
        selection: See ``Generation``.
        reused: The same.
        past: The same.
        drafts: See ``Timings``.
    """
    timings = Timings(
        preprocess_ms=spent.ready * 1000,
        vision_ms=spent.vision * 1000 if selection.placements else 0.0,
        prefill_ms=spent.prefill * 1000,
        ttft_ms=spent.first * 1000,
        decode_tokens=len(sequence.ids) - 1,
        decode_ms=spent.decode * 1000 if len(sequence.ids) > 1 else 0.0,
        kv_mib=nbytes / 2**20,
        visual_tokens=visual,
        drafts=drafts,
    )
    return Generation(
        text=sequence.text,
        token_ids=tuple(sequence.ids),
        finish_reason=sequence.finish_reason,
        timings=timings,
        visual_tokens=visual,
        selection=selection,
        reused=reused,
        past=past,
        backend=loaded.backend.name,
        arithmetic=loaded.backend.arithmetic,
        logprobs=sequence.asked_logprobs,
    )
