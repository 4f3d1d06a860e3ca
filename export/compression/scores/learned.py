"""A learned score: ``(W_q x) . mean(W_k x)``, two matrices of a file (``--scorer``, the setting ``scorer``).

The form is VisionSelector's (their scores are the mean over all keys of ``q . k``, which is this); what is learned and
how is up to whoever writes the file, ``examples/learned_scorer`` has a trainer. ``x`` are the visual tokens after the
input norm of the layer that the prune stands before. As ``W_k`` is linear, only the mean goes through it, and the
product with ``W_q`` is taken once a picture: a prune costs one product of N rows with a vector.
"""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression.row_reductions import sums
from luvc_export.export.compression.scorer_file import known
from luvc_export.export.compression.scores.base import Score, ScoreInput, ScoreSetting

_SHA256 = ("[0-9a-f]{64}", "the sha256 of its file")


class Learned(Score):
    """What the file of a scorer says."""

    settings = MappingProxyType(
        {"scorer": ScoreSetting(None, "sha256 of the scorer's file, see --scorer.", pattern=_SHA256, kind=str)}
    )

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """``W_q`` and ``W_k`` of the prune before ``layer``, fp32 [2, d, D]."""
        scorer = known(plan.llm.method["scorer"])
        scorer.check(plan, channels)
        return scorer.of(layer, channels)

    def score(self, given: ScoreInput) -> Tensor:
        """The product [B, G, N]; padding is left out of the mean."""
        assert given.basis is not None
        batch, groups, _, channels = given.normed.shape
        seen = given.normed
        if given.padding is not None:
            seen = seen * (1.0 - given.padding().float())[..., None]
        middle = seen.mean(2, keepdim=True).reshape(batch * groups, channels)
        wanted = (middle @ given.basis[1].T) @ given.basis[0]
        return sums(given.normed * wanted.reshape(batch, groups, 1, channels))


SCORE = Learned()
