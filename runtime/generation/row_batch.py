"""Questions that join a batch and leave it one by one: what ``generate_batch`` and a server's loop run on engines."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core import graph_io
from luvc_export.core.token_layout import arrange
from luvc_export.errors import UsageError
from luvc_export.runtime import batching
from luvc_export.runtime.backend import PendingRows, RowBackend, RowStep, RowToken
from luvc_export.runtime.generation.result import Generation, Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import Timings
from luvc_export.runtime.graphs import grouped, grouped_padding
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import VisualFeatures


class Row:
    """One question in a batch: made by ``RowBatch.join``.

    ``pieces`` is the text that the last token added. When ``done``, ``result`` is the answer and the row has left.
    """

    def __init__(self, request: Request, sequence: TokenSequence, slot: int, layout: Any, selection: Selection) -> None:
        self.request, self.sequence, self.slot, self.selection = request, sequence, slot, selection
        self.pieces, self.done = "", False
        self.result: Generation | None = None
        self.marks: dict[str, float] = {}
        self._layout = layout

    def token(self, index: int, chosen: bool) -> RowToken:
        """Token ``index`` of the answer as the decoder takes it; ``chosen``: it is on the device and nowhere else."""
        place = self._layout.next_position + index, self._layout.next_order + index
        return RowToken(None if chosen else self.sequence.ids[index], *place)

    def take(self, step: RowStep) -> None:
        """Go on with what a step gave."""
        if self.sequence.greedy:
            self.sequence.append(step.token, step.logit)
        else:
            assert step.logits is not None
            self.sequence.sample(step.logits)
        self.pieces = self.sequence.piece()
        self.done = self.sequence.done


class RowBatch:
    """Rows of one plan, each as it would be alone. One thread calls it.

    Args:
        loaded: Runs the graphs.

    Raises:
        UsageError: Its back-end takes no rows.
        MachineError: There is no memory for them.
    """

    def __init__(self, loaded: LoadedPlan) -> None:
        if not isinstance(loaded.backend, RowBackend):
            raise UsageError("this back-end takes no rows that join and leave", where=f"backend {loaded.backend.name}")
        self._loaded, self._rows = loaded, loaded.backend.open_rows()
        self._live: dict[int, Row] = {}
        self._under_way: tuple[PendingRows, dict[int, Row]] | None = None

    def __len__(self) -> int:
        return len(self._live)

    @property
    def capacity(self) -> int:
        """Rows at most."""
        return self._rows.capacity

    def room(self, request: Request) -> int:
        """How many requests of so many images and so long a prompt may join now, in one call."""
        images = len(request.images)
        return self._rows.room(images // self._loaded.plan.sharing.images, len(request.token_ids) - images)

    def join(
        self, requests: Sequence[Request], options: Sampling, budgets: Sequence[int], ready: float = 0.0
    ) -> list[Row]:
        """Run prompts up to the first token of each answer.

        Args:
            requests: Prompts of equally many images, at most ``room``.
            options: How tokens are chosen; each row draws with a random state of its own.
            budgets: Tokens at most, per row; no more than the back-end has room for.
            ready: Seconds that preparing took.

        Returns:
            Their rows; one whose first token ended it is done.

        Raises:
            UsageError: They do not fit.
            CheckFailed: The logits of one are not finite.
        """
        loaded, images = self._loaded, len(requests[0].images)
        loaded.load(images=images > 0)
        start = perf_counter()
        seen = [loaded.encode_images(request.images, request.padding, request.units) for request in requests]
        marks = {"start": start - ready, "ready": start, "encoded": perf_counter()}
        layouts = [
            arrange(
                list(request.token_ids),
                loaded.bundle.manifest.prompt.image_token_id,
                features.positions,
                loaded.plan.grid,
                loaded.bundle.manifest.prompt.position_kind,
                blocks=request.blocks,
            )
            for request, features in zip(requests, seen, strict=True)
        ]
        embeds = [grouped(loaded.plan, features.embeds) for features in seen]
        together = embeds[0] if len(embeds) == 1 else np.concatenate([np.asarray(each) for each in embeds])
        void = [grouped_padding(loaded.plan, features.padding) for features in seen if features.padding is not None]
        padding = np.concatenate(void) if len(void) == len(seen) else None
        slots, out = self._rows.join(batching.feeds(layouts, together, all_logits=False, padding=padding))
        marks["prefilled"] = perf_counter()
        kept = {layer: out[graph_io.kept_name(layer)] for layer, _, keep in loaded.plan.prunes if keep}
        rows = []
        for index, (request, slot, budget) in enumerate(zip(requests, slots, budgets, strict=True)):
            room = self._rows.text_capacity - layouts[index].input_ids.shape[1]
            budget = max(1, min(budget, room))
            sequence = TokenSequence(loaded.encoder, options, loaded.ends, budget, request.token_ids)
            mine = {layer: indices[index] for layer, indices in kept.items()}
            row = Row(request, sequence, slot, layouts[index], _selection(loaded, request, seen[index], mine))
            row.marks = dict(marks)
            self._live[slot] = row
            rows.append(row)
        for index, row in enumerate(rows):
            row.sequence.sample(out[graph_io.LOGITS][index, -1])
            row.pieces, row.marks["first"] = row.sequence.piece(), perf_counter()
            row.done = row.sequence.done
            self._end(row)
        return rows

    def step(self) -> list[Row]:
        """A token more for every row that was there when this step began; those that are done have left.

        Where every row takes the most likely token, the step after is on its way before this one's tokens are read.

        Raises:
            CheckFailed: The logits of a row are not finite.
        """
        if not self._live:
            return []
        pending, rows = self._under_way or self._start(chosen=False)
        self._under_way = None
        if rows == self._live and self._goes_on():
            self._under_way = self._start(chosen=True)
        found = pending.read()
        taken = [row for row in rows.values() if self._live.get(row.slot) is row]
        for row in taken:
            row.take(found[row.slot])
            self._end(row)
        return taken

    def leave(self, row: Row) -> None:
        """Forget a row that has not ended; its slot is free."""
        if self._live.get(row.slot) is row:
            del self._live[row.slot]
            self._rows.leave(row.slot)

    def _goes_on(self) -> bool:
        """The device chooses what comes next, and no row ends for want of budget."""
        backend: Any = self._loaded.backend
        rows = [row.sequence for row in self._live.values()]
        if not getattr(backend, "samples", False):
            return False
        return all(each.greedy and len(each.ids) + 1 < each.budget for each in rows)

    def _start(self, chosen: bool) -> tuple[PendingRows, dict[int, Row]]:
        rows = dict(self._live)
        tokens = {slot: row.token(len(row.sequence.ids) - (not chosen), chosen) for slot, row in rows.items()}
        return self._rows.step(tokens, logits=not all(row.sequence.greedy for row in rows.values())), rows

    def _end(self, row: Row) -> None:
        if row.done:
            self.leave(row)
            row.result = self._generation(row)

    def _generation(self, row: Row) -> Generation:
        loaded, marks, now, sequence = self._loaded, row.marks, perf_counter(), row.sequence
        visual = loaded.plan.cache_rows(len(row.request.images) // loaded.plan.sharing.images, 0)
        timings = Timings(
            preprocess_ms=(marks["ready"] - marks["start"]) * 1000,
            vision_ms=(marks["encoded"] - marks["ready"]) * 1000 if len(row.request.images) else 0.0,
            prefill_ms=(marks["prefilled"] - marks["encoded"]) * 1000,
            ttft_ms=(marks["first"] - marks["start"]) * 1000,
            decode_tokens=len(sequence.ids) - 1,
            decode_ms=(now - marks["first"]) * 1000 if len(sequence.ids) > 1 else 0.0,
            kv_mib=self._rows.row_bytes / 2**20,
            visual_tokens=visual,
        )
        made = sequence.text, tuple(sequence.ids), sequence.finish_reason, timings, visual, row.selection
        ran = loaded.backend.name, loaded.backend.arithmetic
        return Generation(*made, backend=ran[0], arithmetic=ran[1], logprobs=sequence.asked_logprobs)


def answer_rows(
    loaded: LoadedPlan, requests: Sequence[Request], options: Sampling, budgets: Sequence[int], ready: float
) -> list[Generation]:
    """Answer any number of requests: as many at once as the back-end takes, the others as rows end.

    Args:
        loaded: Runs the graphs.
        requests: Of any number of images.
        options: How tokens are chosen.
        budgets: Tokens at most, per row.
        ready: Seconds that preparing took.
    """
    batch, waiting = RowBatch(loaded), deque(range(len(requests)))
    answers: dict[int, Generation] = {}
    places: dict[int, int] = {}

    def settle(rows: Sequence[Row]) -> None:
        for row in rows:
            if row.result is not None:
                answers[places.pop(id(row))] = row.result

    while waiting or len(batch):
        while waiting and (taken := _next(batch, requests, waiting)):
            rows = batch.join([requests[index] for index in taken], options, [budgets[index] for index in taken], ready)
            places |= {id(row): index for row, index in zip(rows, taken, strict=True)}
            for index in taken:
                waiting.remove(index)
            settle(rows)
        settle(batch.step())
    return [answers[index] for index in range(len(requests))]


def _next(batch: RowBatch, requests: Sequence[Request], waiting: Sequence[int]) -> list[int]:
    """Those who join next, in one call: equally many images, as many as there is room for."""
    for first in waiting:
        room = batch.room(requests[first])
        if room:
            images = len(requests[first].images)
            alike = [index for index in waiting if len(requests[index].images) == images]
            return [index for index in alike if batch.room(requests[index])][:room]
    return [] if len(batch) else [waiting[0]]  # which fits nowhere: joining says why


def _selection(
    loaded: LoadedPlan, request: Request, seen: VisualFeatures, kept: Mapping[int, NDArray[np.int64]]
) -> Selection:
    mine = dict(kept)
    where = request.placements, loaded.size, request.tiles, request.padding, request.novel
    return Selection(loaded.plan.grid, seen.merged_into, mine, *where)
