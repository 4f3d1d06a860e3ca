"""V2Drop (CVPR'26): how far the layer before moved a token, ||h_l - h_(l-1)||; those that moved most stay."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores.base import Score, ScoreInput


class V2Drop(Score):
    """What moved most."""

    needs_layer_before = True

    def score(self, given: ScoreInput) -> Tensor:
        """L2 norm of the change [B, G, N]."""
        assert given.context is not None and given.context.before is not None
        return norms(given.context.hidden.float() - given.context.before.float())


SCORE = V2Drop()
