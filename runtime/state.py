"""What passes between the graphs of a plan: what was seen, where a conversation stands, what a step gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter

Array = NDArray[Any]
#: All states of conversations (``DecoderShape.kept``) where a back-end keeps them: has ``lengths``, the rows of each
#: layer's keys and values, and ``nbytes``. A decoder call never changes the cache it continues, it makes a new one.
Cache = Any


@dataclass(frozen=True)
class VisualFeatures:
    """What the vision graph gives.

    Args:
        embeds: float32 [n, N_0, D].
        positions: float32 [n, N_0, 2 * copies].
        merged_into: int64 [n, H0 * W0].
        padding: bool [n, N_0], tokens made of padding alone; None where none is.
    """

    embeds: Array
    positions: NDArray[np.float32]
    merged_into: NDArray[np.int64] | None = None
    padding: NDArray[np.bool_] | None = None

    def some(self, images: Sequence[int]) -> VisualFeatures:
        """Those of some images, in that order, on the host."""
        index = list(images)
        merged = None if self.merged_into is None else self.merged_into[index]
        padding = None if self.padding is None else self.padding[index]
        return VisualFeatures(np.asarray(self.embeds)[index], self.positions[index], merged, padding)


def join_features(parts: Sequence[VisualFeatures]) -> VisualFeatures:
    """Features of several groups of images as those of all of them."""
    if len(parts) == 1:
        return parts[0]
    merged, padding = [part.merged_into for part in parts], [part.padding for part in parts]
    return VisualFeatures(
        np.concatenate([np.asarray(part.embeds) for part in parts]),
        np.concatenate([part.positions for part in parts]),
        None if any(one is None for one in merged) else np.concatenate([one for one in merged if one is not None]),
        None if any(one is None for one in padding) else np.concatenate([one for one in padding if one is not None]),
    )


@dataclass(frozen=True)
class State:
    """Where a conversation stands. Never changed: any state can be continued, more than once.

    What made its keys and values goes on with them: ``adapter`` is beside the weights to the end.

    Args:
        cache: Keys, values and states.
        past_text: Text tokens that it holds.
        next_position: Rotary position of the next token.
        next_order: Its logical place.
        adapter: LoRA adapter; None for the base model.
        groups: Groups of images (what shares a budget) that it holds.
    """

    cache: Cache
    past_text: int
    next_position: int
    next_order: int
    adapter: Adapter | None = None
    groups: int = 0


@dataclass(frozen=True)
class Step:
    """Logits float32 [1, n, vocab], the state after them, what was kept, and the token a decoder itself chose.

    ``kept`` holds for each pruning layer with a budget above 0 int64 [G, keep]: tokens of the vision graph, ascending;
    where images share a budget, counted through all of a group.
    """

    logits: NDArray[np.float32]
    state: State
    kept: dict[int, NDArray[np.int64]]
    chosen: int | None = None


@dataclass(frozen=True)
class RowsState:
    """Where the rows of one cache stand. Never changed: a step makes a new one.

    Args:
        cache: Of all rows.
        text_mask: Which slots of text hold a token of the row, bool [B, P].
        positions: Rotary position of each row's next token, int64 [B].
        orders: Its logical place, int64 [B].
        adapters: LoRA adapter of each row, [B]; None for the base model.
    """

    cache: Cache
    text_mask: NDArray[np.bool_]
    positions: NDArray[np.int64]
    orders: NDArray[np.int64]
    adapters: tuple[Adapter | None, ...]


@dataclass(frozen=True)
class RowsStep:
    """What a call of several rows gave: logits of each row's last token float32 [B, vocab], and the state after it.

    Where every token has a vector, ``logits`` are a row's float32 [n, width], an image's first, of each of B rows.

    ``kept``: see ``Step``, [B, G, keep].
    """

    logits: NDArray[np.float32] | list[NDArray[np.float32]]
    state: RowsState
    kept: dict[int, NDArray[np.int64]]
