"""Max-min diversity (the idea of DivPrune, CVPR'25): each choice is least like all chosen ones, as block greedy.

``d_i = 1 - max over chosen j of cos_ij``. DivPrune begins with the pair farthest apart; here the first round takes what
is least like the mean (a departure), so that no matrix of all pairs is needed.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import sums
from luvc_export.export.compression.scores._greedy import GreedyScore, choose, unit
from luvc_export.export.compression.scores.base import ScoreInput


class MaxMin(GreedyScore):
    """What is farthest from all that is kept."""

    def score(self, given: ScoreInput) -> Tensor:
        """Chosen tokens above all others [B, G, N]."""
        batch, groups, tokens = given.normed.shape[:3]
        along = unit(given.normed)

        def near(flat: Tensor, pick: int) -> Tensor:
            chosen = along.flatten(0, 2).index_select(0, flat).unflatten(0, (batch, groups, pick))
            alike = along @ chosen.transpose(2, 3)
            return alike.reshape(batch * groups * tokens, pick).amax(1).reshape(batch, groups, tokens)

        middle = unit(along.mean(2, keepdim=True))
        return choose(given, lambda cover: (1 - cover).clamp(min=0), near, sums(along * middle), restart=True)


SCORE = MaxMin()
