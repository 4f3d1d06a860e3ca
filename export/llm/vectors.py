"""What stands behind the last norm where nothing is decoded: a head of few numbers, vectors' length, merging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.core.tasks import Embedding
from luvc_export.errors import UsageError


class Judge(nn.Module):
    """One number of a row: its product with the second label's row of the head less the first's.

    The rows are subtracted before the product, as the script beside Qwen3-VL-Reranker does: two logits of some tens
    that are subtracted would leave the rounding of both.

    Args:
        weight: [2, D].
        ids: Of its rows.
        vocab: Tokens there are.
    """

    def __init__(self, weight: nn.Parameter, ids: Sequence[int], vocab: int) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., 1]."""
        return nn.functional.linear(x, self.weight[1:] - self.weight[:1])


def vectors(how: Embedding, head: Any, normed: Tensor) -> Tensor:
    """Rows behind the last norm [B, n, D] to vectors fp32 [B, n, width], of length 1 where they are normalised.

    As ``torch.nn.functional.normalize``, which divides by 1e-12 at least.
    """
    rows = (normed if how.width is None else head(normed)).float()
    return _of_length_1(rows) if how.normalise else rows


def mean(normed: Tensor, visual: int, share: float, text_mask: Tensor) -> Tensor:
    """The mean of all rows but padding's, [B, 1, D]; images have in it what all their units would have.

    Args:
        normed: Rows behind the last norm, [B, V + T, D].
        visual: V.
        share: Units of an image for each of its rows that is left.
        text_mask: bool [B, T], False for padding.
    """
    weights = torch.cat([torch.full((normed.shape[0], visual), share), text_mask.float()], 1)[:, :, None]
    return ((normed.float() * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)).to(normed.dtype)


def merged(how: Embedding, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """Merge neighbours along rows and columns: the mean of each cell, of length 1 where vectors are.

    Args:
        how: Says how many rows and columns a cell has (``Embedding.merged``); a grid's last cells may have fewer.
        vectors: fp32 [B, G * H * W, width] of images of H x W tokens.
        grid: H and W.

    Returns:
        fp32 [B, G * h * w, width], h and w cells an image.
    """
    if how.merged == (1, 1):
        return vectors
    (high, wide), (rows, columns) = how.merged, grid
    below, right = -rows % high, -columns % wide
    batch, width = vectors.shape[0], vectors.shape[-1]
    across = [min(wide, columns - at) for at in range(0, columns, wide)]
    counts = [[min(high, rows - at) * count for count in across] for at in range(0, rows, high)]
    whole = nn.functional.pad(vectors.reshape(batch, -1, rows, columns, width), (0, 0, 0, right, 0, below))
    sums = whole.reshape(batch, -1, len(counts), high, len(across), wide, width).sum((3, 5))
    means = (sums / torch.tensor(counts, dtype=torch.float32)[:, :, None]).flatten(1, 3)
    return _of_length_1(means) if how.normalise else means


def of_rows(
    how: Embedding,
    plan: Plan,
    head: Any,
    norm: Callable[[Tensor], Tensor],
    x: Tensor,
    asked: Tensor,
    groups: int,
    count: int,
    text_mask: Tensor,
    rows: int,
) -> Tensor:
    """Vectors fp32 [B, n, width] of a prompt.

    Args:
        how: How they are made.
        plan: Of the decoder.
        head: Behind the norm.
        norm: The last norm.
        x: Rows that leave the last layer, [B, groups * count + T, D].
        asked: Those that are asked for, [B, rows, D].
        groups: Of images.
        count: Tokens of each.
        text_mask: bool [B, T], False for padding.
        rows: How many are asked for.
    """
    if how.pooling == "mean":
        share = plan.units * plan.sharing.images / max(count, 1)
        return vectors(how, head, mean(norm(x), groups * count, share, text_mask)).expand(-1, rows, -1)
    shown = vectors(how, head, norm(asked))
    if how.pooling == "every":
        visual = vectors(how, head, norm(x[:, : groups * count]))
        shown = torch.cat([merged(how, visual, plan.grid), shown], 1)
    return shown


def to_the_end(plan: Plan, how: Embedding, padded: bool) -> Plan:
    """A plan whose visual tokens leave the last layer too, since each has a vector or a part in the mean.

    Args:
        plan: Any.
        how: How vectors are made.
        padded: Pages of another shape are padded.

    Raises:
        UsageError: Merging takes a whole grid; or nobody would know which vectors are padding's.
    """
    entering = plan.llm.keep[-2] if plan.layers > 1 else plan.span_tokens
    keep = plan.llm.keep if plan.llm.last_layer != "drop" else (*plan.llm.keep[:-1], entering)
    changed = replace(plan, llm=replace(plan.llm, keep=keep, last_layer="full"))
    whole = keep[-1] == plan.units * plan.sharing.images
    if how.merged != (1, 1) and not whole:
        raise UsageError(
            "vectors merge along the rows and columns of a whole page",
            where="--merge-vectors",
            got=f"plan {plan.schedule!r}, which leaves {keep[-1]} of {plan.units} tokens",
            expected="a plan that neither merges nor prunes",
            fix="--plan none, or leave --merge-vectors out",
        )
    if padded and not whole:
        raise UsageError(
            "nobody would know which of the tokens that are left show padding",
            where="--fit",
            got=f"pad, with plan {plan.schedule!r}",
            expected="stretch or crop, where tokens merge or leave",
            fix="--fit stretch, or --plan none",
        )
    return changed


def _of_length_1(rows: Tensor) -> Tensor:
    return rows / (rows * rows).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
