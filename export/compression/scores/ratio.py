"""Share of a token's norm that passes the low-pass filter (reconstruction)."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores._spectrum import SpectrumScore, filtered
from luvc_export.export.compression.scores.base import ScoreInput


class Ratio(SpectrumScore):
    """What passes, by what there was."""

    def score(self, given: ScoreInput) -> Tensor:
        """Norm of what passes over the norm of the token [B, G, N]."""
        return norms(filtered(given)) / norms(given.normed)


SCORE = Ratio()
