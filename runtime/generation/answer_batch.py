"""Several requests at once under one plan: text padded on the right, every row as it would be alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypedDict

import numpy as np

from luvc_export.core import graph_io
from luvc_export.core.token_layout import arrange
from luvc_export.errors import LuvcError, UsageError, did_you_mean
from luvc_export.runtime import batching
from luvc_export.runtime.backend import Backend
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import Timings
from luvc_export.runtime.graphs import grouped, grouped_padding
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.prompt.template import Message


class Ask(TypedDict, total=False):
    """One question of a batch: arguments of ``Session.generate`` by name."""

    image: Picture | Sequence[Picture] | None
    prompt: str | None
    messages: Sequence[Message] | None
    video: Sequence[Picture] | None
    fps: float


@dataclass(frozen=True)
class Prepared:
    """A question of a batch made ready: the plan that answers, the request, and tokens its answer may have."""

    loaded: LoadedPlan
    request: Request
    budget: int


@contextmanager
def in_row(row: int) -> Iterator[None]:
    """Say in errors which of the questions it was."""
    try:
        yield
    except LuvcError as error:
        where = f"requests[{row}]" + (f": {error.where}" if error.where else "")
        told = {"got": error.got, "expected": error.expected, "fix": error.fix}
        raise type(error)(error.what, where=where, **told) from error  # type: ignore[arg-type]


def check_ask(given: Mapping[str, Any]) -> None:
    """Refuse names that ``Ask`` does not have.

    Raises:
        UsageError: There is one.
    """
    for name in given:
        if name not in Ask.__annotations__:
            raise UsageError(
                "unknown part of a question",
                got=name,
                expected=did_you_mean(name, Ask.__annotations__),
            )


def alike(requests: Sequence[tuple[LoadedPlan, Request]], join: bool = False) -> list[list[int]]:
    """Rows that can run together: same plan (image size), equally many images; in the order of their first.

    Where rows ``join`` a batch one by one, images do not matter.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for row, (loaded, request) in enumerate(requests):
        found.setdefault((id(loaded), 0 if join else len(request.images)), []).append(row)
    return [*found.values()]


def check_rows(backend: Backend, groups: Sequence[Sequence[int]]) -> None:
    """Refuse more rows than a back-end takes in one call.

    Raises:
        UsageError: Names both numbers.
    """
    limit, most = backend.largest_batch, max(map(len, groups), default=0)
    if limit is not None and most > limit:
        raise UsageError(
            "this back-end takes fewer questions at a time",
            where=f"backend {backend.name}",
            got=f"{most} rows",
            expected=f"at most {limit}",
            fix="ask one after another with generate, or open the bundle with the cpu back-end",
        )


def answer_batch(
    loaded: LoadedPlan, requests: Sequence[Request], options: Sampling, budgets: Sequence[int], ready: float
) -> list[Generation]:
    """Generate one answer for each of ``requests``, which have equally many images.

    A row that has ended runs on until the last one ends; what it makes then is thrown away. Padding is masked, and
    stands after everything in logical order, so that no token sees it.

    Args:
        loaded: Runs the graphs.
        requests: Rows.
        options: How tokens are chosen; each row draws with a random state of its own.
        budgets: Tokens at most, per row.
        ready: Seconds that preparing took.
    """
    prompt, rows, images = loaded.bundle.manifest.prompt, len(requests), len(requests[0].images)
    loaded.load(images=images > 0)
    sequences = [
        TokenSequence(loaded.encoder, options, loaded.ends, budget, request.token_ids)
        for budget, request in zip(budgets, requests, strict=True)
    ]
    start = perf_counter()
    shown = [request.padding for request in requests if request.padding is not None]
    padding = np.concatenate(shown) if len(shown) == rows else None
    chosen = [request.units for request in requests if request.units is not None]
    units = np.concatenate(chosen) if len(chosen) == rows else None
    features = loaded.encode_images(np.concatenate([request.images for request in requests]), padding, units)
    encoded = perf_counter()
    layouts = [
        arrange(
            list(request.token_ids),
            prompt.image_token_id,
            features.positions[row * images : (row + 1) * images],
            loaded.plan.grid,
            prompt.position_kind,
            blocks=request.blocks,
        )
        for row, request in enumerate(requests)
    ]
    embeds = grouped(loaded.plan, np.asarray(features.embeds), rows)
    void = None if features.padding is None else grouped_padding(loaded.plan, features.padding, rows)
    feeds = batching.feeds(layouts, embeds, all_logits=False, padding=void)
    out, cache = loaded.backend.decode(feeds, None)
    kept = {layer: out[graph_io.kept_name(layer)] for layer, _, keep in loaded.plan.prunes if keep}
    prefilled = perf_counter()
    ended = [0.0] * rows
    while True:
        for row, sequence in enumerate(sequences):
            if not sequence.done:
                sequence.sample(out[graph_io.LOGITS][row, -1])
                sequence.piece()
                ended[row] = perf_counter()
        if len(sequences[0].ids) == 1:
            first = perf_counter()
        if all(sequence.done for sequence in sequences):
            break
        tokens = np.array([sequence.ids[-1] for sequence in sequences])
        mask = feeds[graph_io.TEXT_MASK]
        feeds = batching.next_feeds(layouts, tokens, mask, embeds.shape[-1], loaded.plan)
        out, cache = loaded.backend.decode(feeds, cache)
    visual = tuple(length - feeds[graph_io.TEXT_MASK].shape[1] for length in cache.lengths)
    answers = []
    for row, (request, sequence) in enumerate(zip(requests, sequences, strict=True)):
        timings = Timings(
            preprocess_ms=ready * 1000,
            vision_ms=(encoded - start) * 1000 if images else 0.0,
            prefill_ms=(prefilled - encoded) * 1000,
            ttft_ms=(ready + first - start) * 1000,
            decode_tokens=len(sequence.ids) - 1,
            decode_ms=(ended[row] - first) * 1000 if len(sequence.ids) > 1 else 0.0,
            kv_mib=cache.nbytes / rows / 2**20,
            visual_tokens=visual,
        )
        own = slice(row * images, (row + 1) * images)
        merged = None if features.merged_into is None else features.merged_into[own]
        mine = {layer: indices[row] for layer, indices in kept.items()}
        where = request.placements, loaded.size, request.tiles, request.padding, request.novel
        selection = Selection(loaded.plan.grid, merged, mine, *where)
        made = sequence.text, tuple(sequence.ids), sequence.finish_reason, timings, visual, selection
        answers.append(
            Generation(
                *made,
                backend=loaded.backend.name,
                arithmetic=loaded.backend.arithmetic,
                logprobs=sequence.asked_logprobs,
            )
        )
    return answers
