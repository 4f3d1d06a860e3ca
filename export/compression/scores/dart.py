"""DART (EMNLP'25): a few pivots of large key norm, then for each pivot the tokens least similar to it.

The paper takes half of its pivots from the text; here all eight are visual, so that what stays does not depend on the
question (a departure). Pivots take turns and never share a token, which a masked TopK per pivot says statically.
Padding is taken when nothing else is left.
"""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import mark, norms, sums
from luvc_export.export.compression.scores.base import Score, ScoreInput

PIVOTS = 8


class Dart(Score):
    """Pivots by keys, then what is least like them."""

    def score(self, given: ScoreInput) -> Tensor:
        """1 for exactly the K chosen tokens, 0 for the others, fp32 [B, G, N]."""
        assert given.context is not None
        tokens = given.normed.shape[2]
        pivots = min(PIVOTS, given.keep)
        padding = None if given.padding is None else given.padding().float()
        lengths = sums(given.context.keys().float().abs())
        indices = spu.best(lengths if padding is None else lengths * (1 - padding) - padding, pivots)
        unit = given.normed / norms(given.normed)[..., None].clamp(min=1e-12)
        chosen = mark(indices, tokens)
        share, extra = divmod(given.keep - pivots, pivots)
        for number in range(pivots):
            pick = share + (number < extra)
            if pick:
                pivot = (unit * mark(indices[..., number : number + 1], tokens)[..., None]).sum(2, keepdim=True)
                far = 1 - sums(unit * pivot)
                rank = far - 8.0 * chosen
                rank = rank if padding is None else rank - 4.0 * padding
                chosen = chosen + mark(spu.best(rank, pick), tokens)
        return chosen


SCORE = Dart()
