"""What a prune keeps: the score of the plan asked about a span that enters a layer, with what it may read of the model.

A plan that keeps its subject apart (``LlmPlan.apart``) asks before the first layer: the tokens of every image that its
first prune will keep are one side, those that it will drop the other, and until then neither sees the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from luvc_export.export.compression import quotas, scores, spu
from luvc_export.export.compression.row_reductions import mark
from luvc_export.export.llm.last_row_attention import keys_of, last_row
from luvc_export.export.llm.span import Rows, Span, tokens_of


class Where(NamedTuple):
    """The prune before layer ``prune``, chosen by what enters ``layer``: ``groups`` spans of ``rows_each`` rows."""

    prune: int
    layer: int
    groups: int
    rows_each: int


def choose(decoder: Any, at: Where, x: Tensor, span: Span, rows: Rows, padded: bool) -> Tensor:
    """Indices int64 [B, G, keep] of a prune, ascending, of rows ``x`` [B, V + T, D] that enter a layer.

    ``decoder`` is a ``Decoder``, whose norms, score and constants are read; ``padded`` says that ``span.kept`` marks
    padding.
    """
    plan, (tokens, keep) = decoder.plan, decoder.chooses[at.prune]
    visual = x[:, : at.groups * at.rows_each]
    before = decoder.parts(decoder.layers[at.layer]).before
    normed = tokens_of(decoder.norm_of(before, visual).float(), at.groups, at.rows_each, tokens)
    score_input = scores.ScoreInput(
        normed,
        getattr(decoder, f"basis_{at.prune}"),
        plan.llm.axis,
        keep,
        layer_context(decoder, at, tokens, x, rows),
        plan.merged_grid if plan.encoder.grid_intact and at.rows_each == plan.span_tokens else None,
        plan.sharing.images,
        (lambda: span.kept < 0) if padded else None,
        dict(plan.llm.method.settings),
    )
    score = decoder.score(score_input)
    score = spu.padding_last(score, span.kept) if padded else score
    if plan.sharing.quota != "none":
        own = quotas.members(span.kept, plan.sharing.images, plan.vision_tokens, padded)
        share = quotas.weights(plan.sharing.quota, normed, own)
        score = quotas.keys(score, own, quotas.quotas(share, own, keep))
    return spu.select(score, keep)


def layer_context(decoder: Any, at: Where, tokens: int, x: Tensor, rows: Rows) -> scores.LayerContext:
    """What baselines read beside the normed span; nothing of it is computed unless they do."""
    layer, pictures = decoder.layers[at.layer], at.groups * at.rows_each

    def inside(values: Tensor) -> Tensor:
        return tokens_of(values, at.groups, at.rows_each, tokens)

    def attention_row(earlier: bool) -> Tensor:
        entered, of = (x, layer) if not earlier else (rows.before, decoder.layers[at.layer - 1])
        assert entered is not None
        valid, last = rows.valid(pictures)
        row = last_row(decoder, of, entered, rows.whole.cos, rows.whole.sin, valid, last, pictures)
        return inside(row)

    def keys() -> Tensor:
        return inside(keys_of(decoder, layer, x[:, :pictures]))

    before = None if rows.before is None else inside(rows.before[:, :pictures])
    return scores.LayerContext(inside(x[:, :pictures]), before, attention_row, keys)


def sides(chosen: Tensor, count: int) -> Tensor:
    """Side of each visual row, fp32 [B, G * count]: 1 what ``chosen`` [B, G, keep] names, -1 the others."""
    return (2 * mark(chosen, count) - 1).flatten(1, 2)


def unparted(sides: Tensor, past: int, text: int) -> Tensor:
    """Which rows [visual | text] may see which of [past | visual | text], bool [B, 1, V + T, past + V + T].

    Visual rows see those of their side (of every image of the call); text sees both, both see text and what is past.
    """
    rows = torch.cat([sides, torch.zeros(sides.shape[0], text)], 1)
    keys = torch.cat([torch.zeros(sides.shape[0], past), rows], 1)
    return (rows[:, :, None] * keys[:, None, :] >= 0)[:, None]
