"""Keep the tokens whose keys in the coming layer are longest (ViTCoP's choice of L2 norms of keys over attention)."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores.base import Score, ScoreInput


class KeyNorm(Score):
    """Longest keys."""

    def score(self, given: ScoreInput) -> Tensor:
        """L2 norm over all heads of the keys before rotation [B, G, N]."""
        assert given.context is not None
        return norms(given.context.keys())


SCORE = KeyNorm()
