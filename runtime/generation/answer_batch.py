"""Several requests at once under one plan, every row as it would be alone: in one call, or in slots that free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypedDict

from luvc_export.errors import LuvcError, UsageError, did_you_mean
from luvc_export.runtime.backend import Backend, RowBackend, RowStep
from luvc_export.runtime.generation.answer import generation, selection_of
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.rows import Row
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.slot_rows import SlotRows
from luvc_export.runtime.generation.timing import DraftCounts, Spent
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.media.video import VideoSource
from luvc_export.runtime.prompt.request import Request, all_shown
from luvc_export.runtime.prompt.template import Message
from luvc_export.runtime.speculation.rows import shared_calls
from luvc_export.runtime.state import join_features


class Ask(TypedDict, total=False):
    """One question of a batch: arguments of ``Session.generate`` by name."""

    image: Picture | Sequence[Picture] | None
    prompt: str | None
    messages: Sequence[Message] | None
    video: VideoSource | None
    fps: float | None
    image_tokens: int | None
    adapter: str | None


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


@dataclass(frozen=True)
class _Begun:
    """What is known of a row once it has its first token, at ``first_at``; its decoding is not in ``spent``."""

    index: int
    sequence: TokenSequence
    selection: Selection
    spent: Spent
    first_at: float
    drafts: DraftCounts | None = None


def answer_batch(
    loaded: LoadedPlan, requests: Sequence[Request], options: Sampling, budgets: Sequence[int], ready: float
) -> list[Generation]:
    """Generate one answer for each of ``requests``.

    On a back-end with slots, as many at once as it has, of any number of images, the others as rows end. Elsewhere all
    in the same calls, of equally many images: a row that has ended runs on until the last one ends, and what it makes
    then is thrown away. Padding is masked, and stands after everything in logical order, so that no token sees it.

    Args:
        loaded: Runs the graphs.
        requests: Rows.
        options: How tokens are chosen; each row draws with a random state of its own.
        budgets: Tokens at most, per row.
        ready: Seconds that preparing took.
    """
    slots = SlotRows(loaded.graphs) if isinstance(loaded.backend, RowBackend) else None
    group = slots or shared_calls(loaded)
    waiting, growing = [*range(len(requests))], dict[Row, _Begun]()
    ended = dict[int, _Begun]()

    def join(taken: Sequence[int]) -> list[Row]:
        some = [requests[index] for index in taken]
        images = len(some[0].images)
        loaded.load(images=images > 0)
        limits = [slots.budget(requests[one], budgets[one]) if slots else budgets[one] for one in taken]
        sequences = [
            TokenSequence(loaded.encoder, options, loaded.ends, limit, request.token_ids)
            for request, limit in zip(some, limits, strict=True)
        ]
        rows = [Row(sequence, request=request) for sequence, request in zip(sequences, some, strict=True)]
        start = perf_counter()
        shown = [request.shown() for request in some] if slots else [all_shown(some)]
        seen = join_features([loaded.encode_images(*images) for images in shown])
        encoded = perf_counter()
        step = group.prefill(rows, [request.passage for request in some], seen)
        times = encoded - start, perf_counter() - encoded
        for place, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            if loaded.lends_features:
                row.seen = loaded.lent(seen.some(range(place * images, (place + 1) * images)))
            row.take(RowStep(None, None, step.logits[place]))
            merged = None if seen.merged_into is None else seen.merged_into[place * images :][:images]
            kept = {layer: indices[place] for layer, indices in step.kept.items()}
            selection, first = selection_of(loaded, some[place], merged, kept), perf_counter()
            spent = Spent(ready, *times, ready + first - start, 0.0)
            growing[row] = _Begun(taken[place], sequence, selection, spent, first)
        return rows

    def settle(rows: Sequence[Row]) -> None:
        for row in rows:
            row.check()
            if row.ended:
                begun, now = growing.pop(row), perf_counter()
                spent = replace(begun.spent, decode=now - begun.first_at)
                ended[begun.index] = replace(begun, spent=spent, drafts=row.drafts)
                if slots:
                    slots.change([row], [])

    while waiting or growing:
        while waiting and (taken := _next(slots, requests, waiting) if slots else [*waiting]):
            waiting = [index for index in waiting if index not in taken]
            settle(join(taken))
        if growing:
            settle(group.step())
    return [
        _generation(loaded, ended[index], len(request.images), group.row_bytes)
        for index, request in enumerate(requests)
    ]


def _generation(loaded: LoadedPlan, begun: _Begun, images: int, nbytes: float) -> Generation:
    visual = loaded.plan.cache_rows(images // loaded.plan.sharing.images, 0)
    return generation(loaded, begun.sequence, begun.spent, nbytes, visual, begun.selection, drafts=begun.drafts)


def _next(slots: SlotRows, requests: Sequence[Request], waiting: Sequence[int]) -> list[int]:
    """Those who join next, in one call: equally many images, as many as there is room for."""
    for first in waiting:
        room = slots.room(requests[first])
        if room:
            images = len(requests[first].images)
            same = [index for index in waiting if len(requests[index].images) == images]
            taken: list[int] = []
            for index in same:
                if len(taken) < room and slots.room(requests[index]):
                    taken += [index] if slots.takes([requests[one] for one in (*taken, index)]) else []
            return taken
    return [] if slots.rows else [waiting[0]]  # which fits nowhere: joining says why
