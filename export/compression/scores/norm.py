"""Keep the tokens of largest norm: the low-pass score without its filter."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores.base import Score, ScoreInput


class Norm(Score):
    """Longest tokens."""

    def score(self, given: ScoreInput) -> Tensor:
        """L2 norm after the layer's input norm [B, G, N]."""
        return norms(given.normed)


SCORE = Norm()
