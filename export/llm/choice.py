"""What a prune keeps: the score of the plan asked about a span that enters a layer, with what it may read of the model.

A plan that keeps its subject apart (``LlmPlan.apart``) asks before the first layer: the tokens of every image that its
first prune will keep are one side, those that it will drop the other, and until then neither sees the other.

Scores that read attention get one row of it, the last text token against the visual tokens, without asking the fused
kernel for weights.

In a trace for surgery a prune by spectrum is marks (``compression.marks``): which tokens stay, then the rows of
theirs and of the text.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from luvc_export.core.operators import KEEP_ROWS, SCORES, SPECTRUM_CHOOSE, SPECTRUM_DROP
from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError
from luvc_export.export.compression import marks, quotas, scores, spu
from luvc_export.export.compression.row_reductions import mark
from luvc_export.export.layers import capped, split_heads
from luvc_export.export.llm.span import Parts, Placed, Rows, Span, tokens_of


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


class FamilyAttention(Protocol):
    """What of a family's decoder one row of attention is made with."""

    scale: float
    scores_cap: float | None

    def head_size(self, layer: Any) -> int:
        """Size of one attention head."""

    def placed(self, layer: Any, heads: Tensor, norm: Any, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys [B, heads, S, Dh] by their norm, if any, and their rotary caches [B, S, ...]."""

    def parts(self, layer: Any) -> Parts:
        """The modules of a layer."""

    def queries(self, layer: Any, normed: Tensor) -> Tensor:
        """Queries of rows, [B, heads, S, Dh]."""

    def norm_of(self, module: Any, x: Tensor) -> Tensor:
        """Norm of a transformers module."""

    def query_factor(self, cache: Tensor) -> Tensor | None:
        """Factor on every row's queries [B, S, 1], or None."""


def attention_of(layer: Any) -> Any:
    """The attention of a layer, for a score that reads it.

    Raises:
        PlanError: The layer has a state in place of keys.
    """
    if not hasattr(layer, "self_attn"):
        raise PlanError(
            "the score reads keys or attention where the layer has none",
            where="--score",
            got="a prune before a layer that keeps a state in place of keys, or the one before it does",
            expected="a score that reads tokens alone, such as residual",
            fix="choose another score, or prune elsewhere",
        )
    return layer.self_attn


def keys_of(decoder: FamilyAttention, layer: Any, x: Tensor) -> Tensor:
    """Keys [B, S, Hkv * Dh] of rows [B, S, D] that enter a layer, before anything turns them.

    Raises what ``attention_of`` raises.
    """
    key: Tensor = attention_of(layer).k_proj(decoder.norm_of(decoder.parts(layer).before, x))
    return key


def last_row(
    decoder: FamilyAttention, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, valid: Tensor, last: Tensor, visual: int
) -> Tensor:
    """Attention of each prompt's last text token in ``layer``, mean over heads, fp32 [B, visual].

    The past of a conversation is left out: it would scale each head's row and change no order inside a head.

    Args:
        decoder: For the family's norms and scale.
        layer: Whose projections are used.
        x: [B, S, D] that enters it, visual tokens first.
        cos: [B, S, Dh / 2], as ``sin``.
        sin: See ``cos``.
        valid: bool [B, S], False for padding.
        last: int64 [B], place in S of the last text token.
        visual: Visual tokens, the first of S.

    Raises:
        PlanError: See ``attention_of``.
    """
    attn, parts, factor = attention_of(layer), decoder.parts(layer), decoder.query_factor(cos)
    batch, length = x.shape[:2]
    flat = last + length * torch.arange(batch)
    normed = decoder.norm_of(parts.before, x)
    row = _rows(normed, flat)
    size = decoder.head_size(layer)
    query = decoder.queries(layer, row)
    query = decoder.placed(layer, query, parts.query_norm, _rows(cos, flat), _rows(sin, flat))
    key = decoder.placed(layer, split_heads(attn.k_proj(normed), size), parts.key_norm, cos, sin)
    if factor is not None:
        query = query * _rows(factor, flat)[:, None].to(query.dtype)
    shared = query.shape[1] // key.shape[1]
    query = query.reshape(batch, key.shape[1], shared, size)
    weights = capped((query.float() @ key.float().transpose(2, 3)) * decoder.scale, decoder.scores_cap)
    weights = torch.where(valid[:, None, None], weights, -1e30).softmax(-1)
    return weights.mean((1, 2))[:, :visual]


def _rows(values: Tensor, flat: Tensor) -> Tensor:
    """[B, S, C] -> [B, 1, C] at ``flat`` places of B * S."""
    batch, length, channels = values.shape
    return values.reshape(batch * length, channels).index_select(0, flat).reshape(batch, 1, channels)


class Ranked(NamedTuple):
    """What a prune ranks by.

    Attributes:
        x: Hidden states of [visual | text] [B, S, D].
        weight: Of the layer's input norm [D].
        epsilon: Of that norm.
        basis: fp32 low-pass basis, of tokens or of channels.
    """

    x: Tensor
    weight: Tensor
    epsilon: float
    basis: Tensor


def as_marks(plan: Plan, weight: Tensor, x: Tensor) -> bool:
    """Whether a prune is traced as marks: of a norm of this ``weight`` in the type of ``x``, by a score surgery fuses.

    That is a spectral score, and no aggregate row, quota or separate sides.
    """
    plain = plan.sharing.quota == "none" and plan.llm.by_score_alone
    return marks.marks() and plan.llm.method.name in SCORES and plain and weight.dtype == x.dtype


def mark_prune(plan: Plan, ranked: Ranked, span: Span, whole: Placed, tokens: int, keep: int) -> tuple[Tensor, Span]:
    """Rows [visual | text] that stay, ``keep`` of the ``tokens`` of each group, and the span they leave.

    ``whole`` is where the rows of [visual | text] stand.
    """
    x, groups = ranked.x, span.kept.shape[1]
    sizes, frequencies = {"tokens": tokens, "keep": keep}, ranked.basis.shape[1]
    settings = sizes | {
        "cutoff": (frequencies - 1) // 2 if plan.llm.spectrum == "1d" else -1,
        "frequencies": frequencies,
        "score": plan.llm.method.name,
        "axis": plan.llm.axis,
        "epsilon": ranked.epsilon,
    }
    index = (torch.int64, (*span.kept.shape[:2], keep))
    inputs = {"values": x, "norm_weight": ranked.weight, "basis": ranked.basis, "index": span.kept}
    chosen = marks.mark(SPECTRUM_CHOOSE, inputs, settings, {"indices": index})["indices"]
    rows = {"values": x, **whole._asdict()}
    like = _kept(rows, groups * (tokens - keep)) | {"kept_index": index}
    stay = marks.mark(KEEP_ROWS, rows | {"index": span.kept, "indices": chosen}, sizes, like)
    left = Placed(*(stay[f"kept_{name}"] for name in Placed._fields))
    planes = span.planes
    if planes is not None:
        planes = spu.gather(planes, spu.flat_index(chosen, tokens), groups, tokens, keep)
    order, cos, sin = (part[:, : groups * keep] for part in left)
    return stay["kept_values"], Span(order, cos, sin, stay["kept_index"], planes, None, left)


def mark_drop(x: Tensor, whole: Placed, index: Tensor, tokens: int) -> Tensor:
    """The text's rows of [visual | text] ``x`` [B, S, D], whose visual ones are ``tokens`` a group of ``index``."""
    rows = {"values": x, **whole._asdict()}
    like = _kept(rows, index.shape[1] * tokens)
    return marks.mark(SPECTRUM_DROP, rows | {"index": index}, {"tokens": tokens, "keep": 0}, like)["kept_values"]


def _kept(rows: dict[str, Tensor], fewer: int) -> dict[str, marks.Like]:
    """What ``rows`` [B, S, ...] are with ``fewer`` of them."""
    return {
        f"kept_{name}": (part.dtype, (part.shape[0], part.shape[1] - fewer, *part.shape[2:]))
        for name, part in rows.items()
    }
