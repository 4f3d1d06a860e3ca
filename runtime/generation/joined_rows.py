"""Answers that grow together and come and go between tokens: one decoder call a token for all of them.

A layer's cache of a row is [visual | text]. Rows of a call have equally many visual rows (same plan, equally many
pictures), and their texts are padded on the right to the longest; the graph's ``text_mask`` hides padding and the slots
that a row had no token for. Whoever comes or goes has the texts packed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.core import graph_io
from luvc_export.core.token_layout import arrange
from luvc_export.errors import CheckFailed
from luvc_export.runtime import batching
from luvc_export.runtime.backend import Array, Cache, RowPacker
from luvc_export.runtime.generation.answer import TokenSource, token_source
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.graphs import NO_TOKEN
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.state import State


@dataclass(eq=False)
class GrowingRow:
    """An answer in the making: its tokens, and the state that holds all of them but the last.

    ``failed`` is what ended it, where sampling did. ``state`` is let go when the row joins others, who have a copy.
    """

    sequence: TokenSequence
    state: State | None
    budget: int
    failed: CheckFailed | None = None
    source: TokenSource | None = field(default=None, repr=False)


class RowGroup(Protocol):
    """Answers under one plan, about equally many pictures."""

    rows: list[GrowingRow]

    def change(self, leaving: Sequence[GrowingRow], joining: Sequence[GrowingRow]) -> None:
        """Let rows go and come."""

    def step(self) -> list[GrowingRow]:
        """Run the decoder once; the rows that got a token, or failed."""


def row_group(loaded: LoadedPlan) -> RowGroup:
    """Rows that share calls where the back-end can take caches apart, else one answer after another."""
    backend = loaded.backend
    if isinstance(backend, RowPacker) and backend.packs and backend.largest_batch != 1:
        return SharedCalls(loaded, backend)
    return OneAfterAnother(loaded)


class OneAfterAnother:
    """Only the first row gets tokens, until it is done."""

    def __init__(self, loaded: LoadedPlan) -> None:
        self._loaded = loaded
        self.rows: list[GrowingRow] = []

    def change(self, leaving: Sequence[GrowingRow], joining: Sequence[GrowingRow]) -> None:
        """See ``RowGroup``."""
        self.rows = [row for row in self.rows if row not in leaving] + list(joining)

    def step(self) -> list[GrowingRow]:
        """See ``RowGroup``."""
        row = self.rows[0]
        try:
            if row.source is None:
                assert row.state is not None
                row.source, row.state = token_source(self._loaded, row.sequence, row.state, row.budget), None
            row.source.advance(row.sequence)
        except CheckFailed as error:
            row.failed = error
        return [row]


class SharedCalls:
    """All rows get a token of one call.

    Args:
        loaded: Runs the graphs.
        packer: Its back-end.
    """

    def __init__(self, loaded: LoadedPlan, packer: RowPacker) -> None:
        self._loaded, self._packer = loaded, packer
        self.rows: list[GrowingRow] = []
        self._cache: Cache | None = None
        self._mask = np.zeros((0, 0), np.bool_)
        self._positions, self._orders = np.zeros(0, np.int64), np.zeros(0, np.int64)
        nothing = loaded.encode_images(np.zeros((0,), np.uint8)).positions
        kind = loaded.bundle.manifest.prompt.position_kind
        self._axes = arrange([0], NO_TOKEN, nothing, loaded.plan.grid, kind).position_ids.shape[0]

    def change(self, leaving: Sequence[GrowingRow], joining: Sequence[GrowingRow]) -> None:
        """See ``RowGroup``."""
        staying = [index for index, row in enumerate(self.rows) if row not in leaving]
        if len(staying) == len(self.rows) and not joining:
            return
        own = self._packer.unpack(self._cache) if self._cache is not None and staying else []
        parts = [(own, index, self._mask[index]) for index in staying]
        states = [row.state for row in joining if row.state is not None]
        alone = not staying and len(states) == 1
        unpacked = {id(state): state for state in states}  # several answers to one question share their state
        arrays = {key: [] if alone else self._packer.unpack(state.cache) for key, state in unpacked.items()}
        parts += [(arrays[id(state)], 0, np.ones(state.past_text, np.bool_)) for state in states]
        self.rows = [self.rows[index] for index in staying] + list(joining)
        self._positions = np.array([*self._positions[staying], *(state.next_position for state in states)], np.int64)
        self._orders = np.array([*self._orders[staying], *(state.next_order for state in states)], np.int64)
        if not parts:
            self._cache, self._mask = None, np.zeros((0, 0), np.bool_)
        elif alone:
            self._cache, self._mask = states[0].cache, parts[0][2][None]
        else:
            packed, self._mask = pack_texts(parts)
            self._cache = self._packer.pack(packed)
        for row in joining:
            row.state = None

    def step(self) -> list[GrowingRow]:
        """See ``RowGroup``."""
        loaded = self._loaded
        tokens = np.array([row.sequence.ids[-1] for row in self.rows], np.int64)
        width = loaded.bundle.manifest.visual_width
        feeds = batching.step_feeds(tokens, self._positions, self._orders, self._mask, self._axes, width, loaded.plan)
        out, self._cache = loaded.backend.decode(feeds, self._cache)
        self._mask = feeds[graph_io.TEXT_MASK]
        self._positions, self._orders = self._positions + 1, self._orders + 1
        for index, row in enumerate(self.rows):
            try:
                row.sequence.sample(out[graph_io.LOGITS][index, -1])
            except CheckFailed as error:
                row.failed = error
        return list(self.rows)


def pack_texts(
    parts: Sequence[tuple[Sequence[Array], int, NDArray[np.bool_]]],
) -> tuple[list[Array], NDArray[np.bool_]]:
    """Rows of several caches as one cache with the texts packed to the left.

    Args:
        parts: For each row the arrays it is in, [B, Hkv, visual + P, Dh] by layer, which of their rows it is, and which
            of its P text slots hold a token.

    Returns:
        Arrays [len(parts), Hkv, visual + longest, Dh] and the mask bool [len(parts), longest].
    """
    kept = [np.flatnonzero(mask) for _, _, mask in parts]
    longest = max(len(slots) for slots in kept)
    found = []
    for layer, first in enumerate(parts[0][0]):
        visual = first.shape[2] - parts[0][2].size
        packed = np.zeros((len(parts), first.shape[1], visual + longest, first.shape[3]), first.dtype)
        for index, ((arrays, row, mask), slots) in enumerate(zip(parts, kept, strict=True)):
            source = arrays[layer][row]
            if source.shape[1] - mask.size != visual:
                raise AssertionError(f"rows of {source.shape[1] - mask.size} and {visual} visual tokens")
            packed[index, :, :visual] = source[:, :visual]
            if len(slots) == mask.size:
                packed[index, :, visual : visual + len(slots)] = source[:, visual:]
            else:
                packed[index, :, visual : visual + len(slots)] = source[:, visual + slots]
        found.append(packed)
    return found, np.arange(longest) < np.array([len(slots) for slots in kept])[:, None]
