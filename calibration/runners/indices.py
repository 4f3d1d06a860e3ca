"""Kept tokens of the encoder -> places in the span that enters each prune, as the debug graph counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.plan import Plan


def places(plan: Plan, kept: dict[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    """Turn kept tokens of the encoder [B, G, keep] into places in the span that enters each prune, as graphs count.

    A token that the prune before had dropped has no place: it becomes the first one, which is wrong and will show.
    """
    result: dict[int, NDArray[np.int64]] = {}
    entering: NDArray[np.int64] | None = None
    for layer, _, keep in plan.prunes:
        if not keep:
            continue
        wanted = kept[layer]
        if entering is None:
            result[layer] = wanted
        else:
            result[layer] = (wanted[..., :, None] == entering[..., None, :]).argmax(-1)
        entering = wanted
    return result
