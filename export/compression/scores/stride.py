"""Keep evenly spaced tokens of the span."""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression.scores.base import Score, ScoreInput


class Stride(Score):
    """Middles of equal parts."""

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """fp32 [N], no two alike: the tokens nearest the middles of K equal parts first, the others spread as evenly.

        Others stand in for those of the K that show padding. Their order is that of their places' bits turned round.
        """
        keep, bits = plan.keep[layer], max(1, (tokens - 1).bit_length())
        turned = [int(f"{place:0{bits}b}"[::-1], 2) for place in range(tokens)]
        picked = -torch.tensor(turned, dtype=torch.float32) / 2**bits
        picked[[(2 * part + 1) * tokens // (2 * keep) for part in range(keep)]] += 2
        return picked

    def score(self, given: ScoreInput) -> Tensor:
        """The constant order [B, G, N]."""
        assert given.basis is not None
        return given.basis.expand(given.normed.shape[:3])


SCORE = Stride()
