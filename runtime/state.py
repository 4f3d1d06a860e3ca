"""What passes between the graphs of a plan: what was seen, where a conversation stands, what a step gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.backend import Array, Cache


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


@dataclass(frozen=True)
class State:
    """Where a conversation stands. Never changed: any state can be continued, more than once."""

    cache: Cache
    past_text: int
    next_position: int
    next_order: int


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
