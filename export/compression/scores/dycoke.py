"""DyCoke's temporal merging (arXiv 2411.15024): of four frames one stays whole, of the others what differs from it.

Frames 1 and 2 of a window are compared with frame 0, frame 3 with frame 2; with ``--quota dycoke`` they keep 58 of 196
tokens each where the first keeps all. Despite its name it drops. Its pruning of caches while decoding is not built: it
saves no memory. Ranked is what the layer's norm makes of tokens (a departure); kept tokens stay in order.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.frame_references import dycoke_references, unlike
from luvc_export.export.compression.scores._even import EvenScore
from luvc_export.export.compression.scores.base import ScoreInput


class DyCoke(EvenScore):
    """What differs from its window's reference."""

    needs_positions = True

    def score(self, given: ScoreInput) -> Tensor:
        """Unlikeness [B, G, N]."""
        assert given.basis is not None
        return unlike(given.normed, dycoke_references(given.images), given.basis)


SCORE = DyCoke()
