"""Keep evenly spaced tokens of the span."""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression.scores.base import Score, ScoreInput


class Stride(Score):
    """Middles of equal parts."""

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """fp32 [N]: 1 for the tokens nearest the middles of K equal parts, 0 for the others."""
        keep = plan.keep[layer]
        picked = torch.zeros(tokens)
        picked[[(2 * part + 1) * tokens // (2 * keep) for part in range(keep)]] = 1
        return picked

    def score(self, given: ScoreInput) -> Tensor:
        """The constant mark [B, G, N]."""
        assert given.basis is not None
        return given.basis.expand(given.normed.shape[:3])


SCORE = Stride()
