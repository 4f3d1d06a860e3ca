"""Scores a prune ranks visual tokens by. A score is one function in ``SCORES``; the plan names it.

``low``, ``residual`` and ``ratio`` are readings of the paper's low-pass filter (reconstruction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from luvc_export.errors import PlanError, did_you_mean
from luvc_export.export.compression import spu
from luvc_export.plan import Plan


@dataclass(frozen=True)
class ScoreInput:
    """What a score may look at.

    Attributes:
        normed: fp32 [B, G, N, D], visual hidden states after the layer's own input norm.
        basis: fp32 [N, m] (token axis) or [D, m] (channel axis) low-pass basis of the plan.
        axis: ``token`` or ``channel``.
    """

    normed: Tensor
    basis: Tensor
    axis: str


def _filtered(given: ScoreInput) -> Tensor:
    if given.axis == "token":
        return spu.lowpass(given.normed, given.basis)
    return (given.normed @ given.basis) @ given.basis.T


def low(given: ScoreInput) -> Tensor:
    """Norm of what passes the filter [B, G, N]: the literal reading."""
    return _filtered(given).norm(dim=-1)


def residual(given: ScoreInput) -> Tensor:
    """Norm of what the filter removes [B, G, N]."""
    return (given.normed - _filtered(given)).norm(dim=-1)


def ratio(given: ScoreInput) -> Tensor:
    """Share of a token's norm that passes [B, G, N]."""
    return _filtered(given).norm(dim=-1) / given.normed.norm(dim=-1)


SCORES: dict[str, Callable[[ScoreInput], Tensor]] = {"low": low, "residual": residual, "ratio": ratio}


def score(name: str) -> Callable[[ScoreInput], Tensor]:
    """The score called ``name``.

    Raises:
        PlanError: There is none.
    """
    if name not in SCORES:
        raise PlanError("unknown score", where="plan.score", got=repr(name), expected=did_you_mean(name, SCORES))
    return SCORES[name]


def basis(plan: Plan, tokens: int, channels: int) -> Tensor:
    """The plan's low-pass basis for ``tokens`` visual tokens of ``channels`` channels.

    ``2d`` needs the grid: once tokens were pruned it is broken and the span is filtered in 1-D.
    """
    if plan.axis == "channel":
        return spu.lowpass_basis(channels, plan.rho)
    if plan.spectrum == "2d" and tokens == plan.vision_tokens:
        return spu.lowpass_basis_2d(*plan.merged_grid, plan.rho)
    return spu.lowpass_basis(tokens, plan.rho)
