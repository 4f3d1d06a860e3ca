"""Rows of engines built for several: each has a slot of the device's caches, and joins with its whole prompt.

Pictures come out of the image cache as elsewhere; keys and values stay on the device, so no prefix is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from luvc_export.core import graph_io
from luvc_export.core.token_layout import TokenLayout, arrange
from luvc_export.errors import CheckFailed
from luvc_export.runtime import batching
from luvc_export.runtime.backend import Array, RowBackend, RowToken
from luvc_export.runtime.generation.joined_rows import GrowingRow
from luvc_export.runtime.graphs import grouped, grouped_padding
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.serve.engine.prefill import Prefilled, Prefiller


class SlotRows:
    """All rows of one plan on a back-end with slots, whatever their number of pictures. Follows ``RowGroup``.

    Args:
        loaded: Runs the graphs.
        backend: Its back-end.

    Raises:
        MachineError: There is no memory for the slots.
    """

    def __init__(self, loaded: LoadedPlan, backend: RowBackend) -> None:
        self._loaded, self._slots = loaded, backend.open_rows()
        self.rows: list[GrowingRow] = []
        self._places: dict[GrowingRow, tuple[int, TokenLayout]] = {}
        #: Slots of prompts that no row has yet.
        self._waiting: list[tuple[int, TokenLayout]] = []

    def fits(self, request: Request, choices: int) -> bool:
        """Whether so many answers to a prompt may join now. An empty batch takes what there is, or says why not."""
        if not self._places:
            return True
        groups = len(request.images) // self._loaded.plan.sharing.images
        room = self._slots.room(groups, len(request.token_ids) - len(request.images))
        return room > 0 and len(self._places) + choices <= self._slots.capacity

    def budget(self, request: Request, wanted: int) -> int:
        """Tokens an answer may have: ``wanted``, or what the slots still hold."""
        room = self._slots.text_capacity - (len(request.token_ids) - len(request.images))
        return max(1, min(wanted, room))

    def prefill(self, request: Request, choices: int, prefiller: Prefiller) -> Prefilled:
        """Run a prompt once for each of its answers; their rows follow in ``place``, or it is forgotten.

        Raises:
            UsageError: It does not fit.
        """
        loaded, start = self._loaded, perf_counter()
        features, found = prefiller.encoded(request)
        encoded = perf_counter()
        layout = arrange(
            list(request.token_ids),
            loaded.bundle.manifest.prompt.image_token_id,
            features.positions,
            loaded.plan.grid,
            loaded.bundle.manifest.prompt.position_kind,
            blocks=request.blocks,
        )
        embeds = grouped(loaded.plan, features.embeds)
        padding = None if features.padding is None else grouped_padding(loaded.plan, features.padding)
        feeds = batching.feeds([layout], embeds, all_logits=False, padding=padding)
        out: dict[str, Array] = {}
        try:
            for _ in range(choices):
                slots, out = self._slots.join(feeds)
                self._waiting += [(slot, layout) for slot in slots]
        except Exception:
            self.forget()
            raise
        kept = {layer: out[graph_io.kept_name(layer)][0] for layer, _, keep in loaded.plan.prunes if keep}
        logits = np.asarray(out[graph_io.LOGITS])[:1]
        spent = 1000 * (encoded - start) if len(request.images) else 0.0, 1000 * (perf_counter() - encoded)
        return Prefilled(logits, None, kept, features.merged_into, found, spent[0], 0.0, spent[1])

    def place(self, rows: Sequence[GrowingRow]) -> None:
        """Give rows the slots their prompt was run in."""
        self._places |= zip(rows, self._waiting, strict=True)
        self._waiting = []

    def forget(self) -> None:
        """Let slots go that no row has."""
        while self._waiting:
            self._slots.leave(self._waiting.pop()[0])

    def change(self, leaving: Sequence[GrowingRow], joining: Sequence[GrowingRow]) -> None:
        """See ``RowGroup``."""
        for row in leaving:
            if row in self._places:
                self._slots.leave(self._places.pop(row)[0])
        self.rows = [row for row in self.rows if row not in leaving] + list(joining)

    def step(self) -> list[GrowingRow]:
        """See ``RowGroup``."""
        tokens = {}
        for row in self.rows:
            slot, layout = self._places[row]
            made = len(row.sequence.ids) - 1
            tokens[slot] = RowToken(row.sequence.ids[-1], layout.next_position + made, layout.next_order + made)
        greedy = all(row.sequence.greedy for row in self.rows)
        found = self._slots.step(tokens, logits=not greedy).read()
        for row in self.rows:
            told = found[self._places[row][0]]
            try:
                if row.sequence.greedy:
                    row.sequence.append(told.token, told.logit)
                else:
                    assert told.logits is not None
                    row.sequence.sample(told.logits)
            except CheckFailed as error:
                row.failed = error
        return list(self.rows)
