"""What the spectrum scores share: the plan's low-pass basis, and the filter it makes (reconstruction)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import spu
from luvc_export.export.compression.scores.base import Score, ScoreInput, ScoreSetting

#: What scores that filter let a user choose: ``c = floor(rho * N / 2)``.
RHO: dict[str, ScoreSetting[Any]] = {
    "rho": ScoreSetting(0.25, "Share of the spectrum below the cutoff.", above=0, most=1),
}


class SpectrumScore(Score):
    """A reading of the low-pass filter; surgery fuses the three of ours, and plugins compute them."""

    reads_spectrum = True
    settings = RHO

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
    rho = plan.llm.method["rho"]
    if plan.llm.axis == "channel":
        return spu.lowpass_basis(channels, rho)
    if plan.llm.spectrum == "2d" and tokens == plan.span_tokens:
        return torch.block_diag(*[spu.lowpass_basis_2d(*plan.merged_grid, rho)] * plan.sharing.images)
    return spu.lowpass_basis(tokens, rho)
