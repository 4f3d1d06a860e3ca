"""Several requests at once under one plan, every row as it would be alone: in one call, or in slots that free."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import LuvcError, UsageError, did_you_mean
from luvc_export.runtime.backend import Backend, RowStep
from luvc_export.runtime.generation.answer import generation, selection_of
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.rows import Row, SharedCalls
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.slot_rows import SlotRows
from luvc_export.runtime.generation.timing import Spent
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.prompt.template import Message
from luvc_export.runtime.state import Passage, join_features


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
        rest = {"got": error.got, "expected": error.expected, "fix": error.fix}
        raise type(error)(error.what, where=where, **rest) from error  # type: ignore[arg-type]


def check_ask(ask: Mapping[str, Any]) -> None:
    """Refuse names that ``Ask`` does not have.

    Raises:
        UsageError: There is one.
    """
    for name in ask:
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
    groups: dict[tuple[int, int], list[int]] = {}
    for row, (loaded, request) in enumerate(requests):
        groups.setdefault((id(loaded), 0 if join else len(request.images)), []).append(row)
    return [*groups.values()]


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
    """Generate one answer for each of ``requests``, which have equally many images, in calls of all of them.

    A row that has ended runs on until the last one ends; what it makes then is thrown away. Padding is masked, and
    stands after everything in logical order, so that no token sees it.

    Args:
        loaded: Runs the graphs.
        requests: Rows.
        options: How tokens are chosen; each row draws with a random state of its own.
        budgets: Tokens at most, per row.
        ready: Seconds that preparing took.
    """
    images = len(requests[0].images)
    loaded.load(images=images > 0)
    sequences = _sequences(loaded, requests, options, budgets)
    rows = [Row(sequence) for sequence in sequences]
    start = perf_counter()
    padding = _together([request.padding for request in requests])
    units = _together([request.units for request in requests])
    seen = loaded.encode_images(np.concatenate([request.images for request in requests]), padding, units)
    encoded = perf_counter()
    step = loaded.graphs.prefill([Passage(request.token_ids, request.blocks) for request in requests], seen)
    prefilled = perf_counter()
    group = SharedCalls(loaded.graphs)
    group.begin(rows, step)
    first = perf_counter()
    ended = [first] * len(rows)
    for row in rows:
        row.check()
    while not all(row.ended for row in rows):
        for row in group.step():
            row.check()
            ended[rows.index(row)] = perf_counter()
    cache, text = group.state.cache, group.state.text_mask.shape[1]
    visual = tuple(length - text for length in cache.lengths)
    answers = []
    for index, (request, sequence) in enumerate(zip(requests, sequences, strict=True)):
        times = encoded - start, prefilled - encoded, ready + first - start, ended[index] - first
        own = slice(index * images, (index + 1) * images)
        merged = None if seen.merged_into is None else seen.merged_into[own]
        selection = selection_of(loaded, request, merged, _row_of(step.kept, index))
        answers.append(generation(loaded, sequence, Spent(ready, *times), cache.nbytes / len(rows), visual, selection))
    return answers


@dataclass(frozen=True)
class _InSlot:
    """What is known of a row once its prompt was run; ``first_at`` is when its first token was there."""

    index: int
    sequence: TokenSequence
    selection: Selection
    spent: Spent
    first_at: float


def answer_rows(
    loaded: LoadedPlan, requests: Sequence[Request], options: Sampling, budgets: Sequence[int], ready: float
) -> list[Generation]:
    """Answer any number of requests: as many at once as the back-end has slots, the others as rows end.

    Args:
        loaded: Runs the graphs.
        requests: Of any number of images.
        options: How tokens are chosen; each row draws with a random state of its own.
        budgets: Tokens at most, per row.
        ready: Seconds that preparing took.
    """
    group, waiting = SlotRows(loaded.graphs), deque(range(len(requests)))
    answers: dict[int, Generation] = {}
    growing: dict[Row, _InSlot] = {}

    def join(taken: Sequence[int]) -> list[Row]:
        some = [requests[index] for index in taken]
        loaded.load(images=len(some[0].images) > 0)
        sequences = _sequences(loaded, some, options, [group.budget(requests[one], budgets[one]) for one in taken])
        rows, start = [Row(sequence) for sequence in sequences], perf_counter()
        seen = [loaded.encode_images(*one.shown()) for one in some]
        encoded = perf_counter()
        step = group.prefill(rows, some, join_features(seen))
        prefilled = perf_counter()
        for place, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            row.take(RowStep(None, None, step.logits[place]))
            first = perf_counter()
            spent = Spent(ready, encoded - start, prefilled - encoded, ready + first - start, 0.0)
            kept = _row_of(step.kept, place)
            selection = selection_of(loaded, some[place], seen[place].merged_into, kept)
            growing[row] = _InSlot(taken[place], sequence, selection, spent, first)
        return rows

    def settle(rows: Sequence[Row]) -> None:
        for row in rows:
            row.check()
            if row.ended:
                group.change([row], [])
                own = growing.pop(row)
                spent = replace(own.spent, decode=perf_counter() - own.first_at)
                visual = loaded.plan.cache_rows(len(requests[own.index].images) // loaded.plan.joint_images, 0)
                made = generation(loaded, own.sequence, spent, group.row_bytes, visual, own.selection)
                answers[own.index] = made

    while waiting or growing:
        while waiting and (taken := _next(group, requests, waiting)):
            for index in taken:
                waiting.remove(index)
            settle(join(taken))
        settle(group.step())
    return [answers[index] for index in range(len(requests))]


def _next(group: SlotRows, requests: Sequence[Request], waiting: Sequence[int]) -> list[int]:
    """Those who join next, in one call: equally many images, as many as there is room for."""
    for first in waiting:
        room = group.room(requests[first])
        if room:
            images = len(requests[first].images)
            same = [index for index in waiting if len(requests[index].images) == images]
            return [index for index in same if group.room(requests[index])][:room]
    return [] if group.rows else [waiting[0]]  # which fits nowhere: joining says why


def _sequences(
    loaded: LoadedPlan, requests: Sequence[Request], options: Sampling, budgets: Sequence[int]
) -> list[TokenSequence]:
    return [
        TokenSequence(loaded.encoder, options, loaded.ends, budget, request.token_ids)
        for request, budget in zip(requests, budgets, strict=True)
    ]


def _together(parts: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """What rows say of their images, as one array; None where one says nothing."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and len(known) == len(parts) else None


def _row_of(kept: Mapping[int, NDArray[np.int64]], index: int) -> dict[int, NDArray[np.int64]]:
    return {layer: indices[index] for layer, indices in kept.items()}
