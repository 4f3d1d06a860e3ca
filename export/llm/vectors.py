"""What stands behind the last norm where nothing is decoded: a head of a few numbers, and the length of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from luvc_export.core.tasks import Embedding


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
    if not how.normalise:
        return rows
    return rows / (rows * rows).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
