"""FastV (ECCV'24): attention of the last token to the visual ones in the layer before, mean over heads.

Original positions are kept, as in its code. One query row is recomputed, so fused attention stays.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.scores import ScoreInput

READS_TEXT = True
NEEDS_LAYER_BEFORE = True


def score(given: ScoreInput) -> Tensor:
    """Attention received in the layer before [B, G, N]."""
    assert given.context is not None
    return given.context.attention(True)
