"""A request -> the pieces of its answer, token by token."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import Manifest
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import DraftCounts, Spent, Timings
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.speculation.rows import single_row
from luvc_export.runtime.state import State, VisualFeatures


@dataclass(frozen=True)
class Past:
    """A conversation so far: the plan it ran with, the ids and images its caches hold, and where it stands.

    ``seen`` are the images' features, where a smaller model drafts with them.
    """

    loaded: LoadedPlan
    token_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    state: State
    seen: VisualFeatures | None = None


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


def goes_on(request: Request, past: Past) -> bool:
    """Whether a chat's next request begins with all that ``past`` holds, and has more."""
    held, shown = len(past.token_ids), len(past.images)
    same = request.token_ids[:held] == past.token_ids and len(request.token_ids) > held
    same = same and request.adapter is past.state.adapter
    return same and np.array_equal(request.images[:shown], past.images)


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
    whole, reused = request, len(past.token_ids) if past else 0
    request = request.rest(reused, len(past.images)) if past else request
    loaded.load(images=len(request.images) > 0)
    sequence = TokenSequence(loaded.encoder, options, loaded.ends, budget, whole.token_ids)
    began = perf_counter()
    seen = loaded.see(request)
    encoded = perf_counter()
    before = past.state if past else None
    step = loaded.run(request.token_ids, seen, before, blocks=request.blocks, adapter=request.adapter)
    prefilled = perf_counter()
    group, kept = single_row(loaded), step.kept
    lent = loaded.lent(seen, past.seen if past else None)
    row = group.begin(sequence, step, whole, lent)
    del step  # whose caches may be used again
    first, decoding = ready + perf_counter() - began, 0.0
    while True:
        row.check()
        if piece := sequence.piece():
            yield piece
        if sequence.done:
            break
        begin = perf_counter()
        group.step()
        decoding += perf_counter() - begin
    state = group.state_of(row)
    spent = Spent(ready, encoded - began, prefilled - encoded, first, decoding)
    visual = loaded.plan.cache_rows(len(whole.images) // loaded.plan.sharing.images, 0)
    now = Past(loaded, (*whole.token_ids, *sequence.ids[:-1]), whole.images, state, lent)
    selection = selection_of(loaded, request, seen.merged_into, kept)
    return generation(loaded, sequence, spent, state.cache.nbytes, visual, selection, reused, now, row.drafts)


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
    spent: Spent,
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
