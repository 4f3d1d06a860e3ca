"""What the spectrum scores share: the plan's low-pass basis, and the filter it makes (reconstruction)."""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import spu
from luvc_export.export.compression.scores.base import Score, ScoreInput


class SpectrumScore(Score):
    """A reading of the low-pass filter; surgery fuses the three of ours, and plugins compute them."""

    reads_spectrum = True

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """The low-pass basis, see ``basis``."""
        return basis(plan, tokens, channels)


def filtered(given: ScoreInput) -> Tensor:
    """What passes the filter, fp32 [B, G, N, D]."""
    assert given.basis is not None
    if given.axis == "token":
        return spu.lowpass(given.normed, given.basis)
    rows = given.normed.flatten(0, 2)
    return ((rows @ given.basis) @ given.basis.T).reshape(given.normed.shape)


def basis(plan: Plan, tokens: int, channels: int) -> Tensor:
    """The plan's low-pass basis for ``tokens`` visual tokens of ``channels`` channels, fp32 [tokens or channels, m].

    ``2d`` needs the grid: once tokens were pruned it is broken and the span is filtered in 1-D. With a joint budget
    every image has its own block, so that scores are those of the image alone.
    """
    if plan.axis == "channel":
        return spu.lowpass_basis(channels, plan.rho)
    if plan.spectrum == "2d" and tokens == plan.span_tokens:
        return torch.block_diag(*[spu.lowpass_basis_2d(*plan.merged_grid, plan.rho)] * plan.joint_images)
    return spu.lowpass_basis(tokens, plan.rho)
