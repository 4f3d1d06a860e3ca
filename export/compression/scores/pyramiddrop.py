"""PyramidDrop (CVPR'25): attention of the last token to the visual ones with the coming layer's projections.

Positions are kept, where the paper's code numbers them anew after each drop.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.scores.base import Score, ScoreInput


class PyramidDrop(Score):
    """Attention in the coming layer."""

    reads_text = True

    def score(self, given: ScoreInput) -> Tensor:
        """Attention received in the coming layer [B, G, N]."""
        assert given.context is not None
        return given.context.attention(False)


SCORE = PyramidDrop()
