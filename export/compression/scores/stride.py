"""Keep evenly spaced tokens of the span."""

from __future__ import annotations

from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression.scores._even import even
from luvc_export.export.compression.scores.base import Score, ScoreInput


class Stride(Score):
    """Middles of equal parts."""

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """fp32 [N], see ``even``."""
        return even(tokens, plan.keep[layer])

    def score(self, given: ScoreInput) -> Tensor:
        """The constant order [B, G, N]."""
        assert given.basis is not None
        return given.basis.expand(given.normed.shape[:3])


SCORE = Stride()
