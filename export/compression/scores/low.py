"""Norm of what passes the low-pass filter: the literal reading of the abstract (reconstruction)."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores._spectrum import SpectrumScore, filtered
from luvc_export.export.compression.scores.base import ScoreInput


class Low(SpectrumScore):
    """What passes."""

    def score(self, given: ScoreInput) -> Tensor:
        """Norm of what passes the filter [B, G, N]."""
        return filtered(given).norm(dim=-1) if given.axis == "token" else norms(filtered(given))


SCORE = Low()
