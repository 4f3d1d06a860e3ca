"""Norm of what the low-pass filter removes (reconstruction)."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores._spectrum import SpectrumScore, filtered
from luvc_export.export.compression.scores.base import ScoreInput


class Residual(SpectrumScore):
    """What does not pass."""

    def score(self, given: ScoreInput) -> Tensor:
        """Norm of what the filter removes [B, G, N]."""
        return norms(given.normed - filtered(given))


SCORE = Residual()
