"""FastV (ECCV'24): attention of the last token to the visual ones in the layer before, mean over heads.

Original positions are kept, as in its code. One query row is recomputed, so fused attention stays.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.scores.base import Score, ScoreInput


class FastV(Score):
    """Attention in the layer before."""

    reads_text = True
    needs_layer_before = True

    def score(self, given: ScoreInput) -> Tensor:
        """Attention received in the layer before [B, G, N]."""
        assert given.context is not None
        return given.context.attention(True)


SCORE = FastV()
