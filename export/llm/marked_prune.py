"""A prune by spectrum as marks (``compression.marks``): which tokens stay, then the rows of theirs and of the text."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.operators import KEEP_ROWS, SCORES, SPECTRUM_CHOOSE, SPECTRUM_DROP
from luvc_export.core.plan import Plan
from luvc_export.export.compression import marks, spu
from luvc_export.export.llm.span import Placed, Span


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


def can_be(plan: Plan) -> bool:
    """Whether surgery fuses the prunes of ``plan``: a spectral score, and no aggregate row, quota or separate sides."""
    plain = plan.sharing.quota == "none" and plan.llm.by_score_alone
    return plan.llm.method.name in SCORES and plain


def prune(plan: Plan, ranked: Ranked, span: Span, whole: Placed, tokens: int, keep: int) -> tuple[Tensor, Span]:
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


def drop(x: Tensor, whole: Placed, index: Tensor, tokens: int) -> Tensor:
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
