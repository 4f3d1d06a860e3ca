"""The debug graph is told what each prune keeps: tokens of the vision graph become places in the span."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.backend import Array


def forced_places(plan: Plan, forced: Mapping[int, NDArray[np.int64]], groups: int) -> dict[str, Array]:
    """Turn indices of the vision graph's tokens into places in the span that enters each prune, as graphs count.

    Args:
        plan: Of the graph.
        forced: Layer -> int64 [G, keep] as in ``Step.kept``, ascending.
        groups: G, images or groups of images that share a budget.

    Returns:
        Inputs by contract name, each int64 [1, G, keep].

    Raises:
        UsageError: A prune is not told, or told what the one before did not keep.
    """
    feeds: dict[str, Array] = {}
    entering = np.broadcast_to(np.arange(plan.span_tokens), (groups, plan.span_tokens))
    for layer, _, keep in plan.prunes:
        if not keep:
            continue
        indices = forced.get(layer, np.zeros((0, keep), np.int64))
        places = [np.flatnonzero(np.isin(row, wanted)) for row, wanted in zip(entering, indices, strict=False)]
        if indices.shape != (groups, keep) or any(len(found) != keep for found in places):
            raise UsageError(
                "a debug session must be told what each prune keeps",
                where=f"forced[{layer}]",
                got=f"int64 {list(indices.shape)}",
                expected=f"[{groups}, {keep}] different tokens that the prune before kept, ascending",
            )
        feeds[graph_io.forced_name(layer)] = np.array(places, np.int64).reshape(1, groups, keep)
        entering = indices
    return feeds
