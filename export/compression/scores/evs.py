"""EVS, what vLLM ships for video: tokens most like the one at their place in the frame before go first.

``1 - cos(x_t, x_(t-1))`` per place; the first frame stays whole where the budget holds it. There it ranks what the
encoder gives, here what the layer's norm makes of it (a departure). In a picture, where nothing is compared, tokens are
spread evenly.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.frame_references import evs_references, unlike
from luvc_export.export.compression.scores._even import EvenScore
from luvc_export.export.compression.scores.base import ScoreInput


class Evs(EvenScore):
    """What changed since the frame before."""

    needs_positions = True

    def score(self, given: ScoreInput) -> Tensor:
        """Unlikeness [B, G, N]."""
        assert given.basis is not None
        return unlike(given.normed, evs_references(given.images), given.basis)


SCORE = Evs()
