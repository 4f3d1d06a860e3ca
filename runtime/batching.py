"""Several prompts in one call: decoder inputs of ``layout.arrange`` side by side, shorter texts padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.token_layout import TokenLayout

#: Logical place of padding: after everything, so that no real token sees it, while it sees something itself.
_LAST = 2**40

Feeds = dict[str, NDArray[Any]]


def feeds(
    layouts: Sequence[TokenLayout],
    embeds: NDArray[Any],
    all_logits: bool = True,
    padding: NDArray[np.bool_] | None = None,
) -> Feeds:
    """Decoder inputs for B prompts of equally many images; ``visual_padding`` too, which not every graph takes.

    Args:
        layouts: One per prompt.
        embeds: Visual embeddings [B, G, N_0, D].
        all_logits: Logits of every text token; otherwise of the last one of each prompt.
        padding: Which visual tokens are padding, bool [B, G, N_0]; None for none.
    """
    longest = max(layout.input_ids.shape[1] for layout in layouts)

    def text(part: str, fill: int) -> NDArray[Any]:
        arrays = [getattr(layout, part) for layout in layouts]
        padded = [
            np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])], constant_values=fill) for a in arrays
        ]
        return np.concatenate(padded, axis=-2)

    def visual(part: str) -> NDArray[Any]:
        return np.concatenate([getattr(layout, part) for layout in layouts], axis=-2)

    rows = len(layouts)
    lengths = np.array([layout.input_ids.shape[1] for layout in layouts])
    return {
        graph_io.VISUAL_EMBEDS: embeds,
        graph_io.INPUT_IDS: text("input_ids", 0),
        graph_io.VISUAL_POSITION_IDS: visual("visual_position_ids"),
        graph_io.POSITION_IDS: text("position_ids", 0),
        graph_io.VISUAL_ORDER: visual("visual_order"),
        graph_io.ORDER: text("order", _LAST),
        graph_io.TEXT_MASK: np.arange(longest) < lengths[:, None],
        graph_io.VISUAL_PADDING: np.zeros(embeds.shape[:3], np.bool_) if padding is None else padding,
        graph_io.LOGITS_INDICES: (
            np.broadcast_to(np.arange(longest), (rows, longest)).copy() if all_logits else lengths[:, None] - 1
        ),
    }


def step_feeds(
    tokens: Sequence[Sequence[int]],
    position: NDArray[np.int64],
    order: NDArray[np.int64],
    text_mask: NDArray[np.bool_],
    axes: int,
    hidden: int,
    plan: Plan,
) -> Feeds:
    """Decoder inputs of more tokens for each row, T at most; logits after every one of them.

    Args:
        tokens: Of each of B rows, at least one; shorter ones are padded on the right.
        position: Rotary position of a row's first one, [B], on all of ``axes``.
        order: Its logical place, [B].
        text_mask: Which past text is real, [B, P].
        axes: Rotary position axes.
        hidden: Width of the embeddings.
        plan: For the number of visual tokens an image would have.
    """
    rows, lengths = len(tokens), np.array([len(row) for row in tokens])
    ahead = np.arange(lengths.max())
    real = ahead < lengths[:, None]
    ids = np.zeros(real.shape, np.int64)
    ids[real] = [token for row in tokens for token in row]
    return {
        graph_io.VISUAL_EMBEDS: np.zeros((rows, 0, plan.span_tokens, hidden), np.float32),
        graph_io.INPUT_IDS: ids,
        graph_io.VISUAL_POSITION_IDS: np.zeros((axes, rows, 0), np.float32),
        graph_io.POSITION_IDS: np.broadcast_to(position[:, None] + ahead, (axes, *ids.shape)).astype(np.float32),
        graph_io.VISUAL_ORDER: np.zeros((rows, 0), np.int64),
        graph_io.ORDER: np.where(real, order[:, None] + ahead, _LAST),
        graph_io.TEXT_MASK: np.concatenate([text_mask, real], 1),
        graph_io.VISUAL_PADDING: np.zeros((rows, 0, plan.span_tokens), np.bool_),
        graph_io.LOGITS_INDICES: np.broadcast_to(ahead, ids.shape).copy(),
    }
