"""Keep evenly spaced tokens of the span."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.scores._even import EvenScore
from luvc_export.export.compression.scores.base import ScoreInput


class Stride(EvenScore):
    """Middles of equal parts."""

    def score(self, given: ScoreInput) -> Tensor:
        """The constant order [B, G, N]."""
        assert given.basis is not None
        return given.basis.expand(given.normed.shape[:3])


SCORE = Stride()
