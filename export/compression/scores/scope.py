"""SCOPE: choose tokens that cover all others, weighted by saliency, as block greedy.

``gain_i = a_i * sum_j max(0, cos_ij - m_j)``, ``m`` the similarity to the nearest chosen token, 0 at first (formula as
in Tencent/AngelSlim's code). There ``a`` is attention in the encoder; here it is the residual of the low-pass filter,
which needs none (a departure).
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import norms, sums
from luvc_export.export.compression.scores._greedy import SETTINGS, GreedyScore, choose, largest, unit
from luvc_export.export.compression.scores._spectrum import RHO, basis, filtered
from luvc_export.export.compression.scores.base import ScoreInput


class Scope(GreedyScore):
    """What covers most of what is not covered yet."""

    reads_spectrum = True
    settings = SETTINGS | RHO

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """The low-pass basis of the saliency."""
        return basis(plan, tokens, channels)

    def score(self, given: ScoreInput) -> Tensor:
        """Chosen tokens above all others [B, G, N]."""
        tokens = given.normed.shape[2]
        saliency = norms(given.normed - filtered(given))
        share = saliency / (tokens * largest(norms(given.normed)).clamp(min=1e-20))
        along = unit(given.normed)
        alike = along @ along.transpose(2, 3)

        def worth(cover: Tensor) -> Tensor:
            return share * sums(torch.relu(alike - cover[:, :, None]))

        def near(flat: Tensor, pick: int) -> Tensor:
            batch, groups = alike.shape[:2]
            rows = spu.gather(alike.flatten(1, 2), flat, groups, tokens, pick)
            return rows.reshape(batch * groups, pick, tokens).amax(1).reshape(batch, groups, tokens)

        return choose(given, worth, near, torch.zeros_like(saliency))


SCORE = Scope()
