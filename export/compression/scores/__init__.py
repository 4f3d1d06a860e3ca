"""Scores a prune ranks visual tokens by; the plan names one.

``low``, ``residual`` and ``ratio`` are readings of the paper's low-pass filter (reconstruction). Every other score is a
file of this folder, found by its name: a function ``score``, and where it needs them ``constant`` (what it reads of
the plan alone), ``READS_TEXT`` and ``NEEDS_LAYER_BEFORE``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError, did_you_mean
from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import norms


@dataclass(frozen=True)
class LayerContext:
    """The model around a prune; what is a function is computed only when a score asks for it.

    Attributes:
        hidden: [B, G, N, D], visual hidden states that enter the layer.
        before: [B, G, N, D], those that entered the layer before; None before the first layer.
        attention: Attention of the last text token to the visual tokens, mean over heads, fp32 [B, G, N]: in this
            layer (False) or in the layer before (True).
        keys: This layer's keys of the visual tokens before rotation [B, G, N, Hkv * Dh].
    """

    hidden: Tensor
    before: Tensor | None
    attention: Callable[[bool], Tensor]
    keys: Callable[[], Tensor]


@dataclass(frozen=True)
class ScoreInput:
    """What a score may look at.

    Attributes:
        normed: fp32 [B, G, N, D], visual hidden states after the layer's own input norm.
        basis: fp32 constant of the plan: [N, m] (token axis) or [D, m] (channel axis) low-pass basis; of a baseline
            whatever its ``constant`` gives.
        axis: ``token`` or ``channel``.
        keep: K, how many will stay.
        context: More of the model.
    """

    normed: Tensor
    basis: Tensor | None
    axis: str
    keep: int = 0
    context: LayerContext | None = None


Score = Callable[[ScoreInput], Tensor]


def _filtered(given: ScoreInput) -> Tensor:
    assert given.basis is not None
    if given.axis == "token":
        return spu.lowpass(given.normed, given.basis)
    rows = given.normed.flatten(0, 2)
    return ((rows @ given.basis) @ given.basis.T).reshape(given.normed.shape)


def low(given: ScoreInput) -> Tensor:
    """Norm of what passes the filter [B, G, N]: the literal reading."""
    return _filtered(given).norm(dim=-1) if given.axis == "token" else norms(_filtered(given))


def residual(given: ScoreInput) -> Tensor:
    """Norm of what the filter removes [B, G, N]."""
    return norms(given.normed - _filtered(given))


def ratio(given: ScoreInput) -> Tensor:
    """Share of a token's norm that passes [B, G, N]."""
    return norms(_filtered(given)) / norms(given.normed)


SCORES: dict[str, Score] = {"low": low, "residual": residual, "ratio": ratio}


def names() -> list[str]:
    """Every score a plan may name."""
    return sorted([*SCORES, *(module.name for module in pkgutil.iter_modules(__path__))])


def score(name: str) -> Score:
    """The score called ``name``.

    Raises:
        PlanError: There is none.
    """
    if name in SCORES:
        return SCORES[name]
    if name not in names():
        raise PlanError("unknown score", where="plan.score", got=repr(name), expected=did_you_mean(name, names()))
    found: Score = _module(name).score
    return found


def reads_text(name: str) -> bool:
    """Whether what a prune keeps depends on the question; the others keep the same tokens of a picture for all."""
    return name not in SCORES and bool(getattr(_module(name), "READS_TEXT", False))


def needs_layer_before(name: str) -> bool:
    """Whether a score compares two layers, so that it cannot prune before the first."""
    return name not in SCORES and bool(getattr(_module(name), "NEEDS_LAYER_BEFORE", False))


def constant(plan: Plan, layer: int, tokens: int, channels: int) -> Tensor | None:
    """What the plan's score reads at the prune before ``layer``: a low-pass basis, indices, or nothing.

    Raises:
        PlanError: The score compares two layers and there is none before.
    """
    if plan.score in SCORES:
        return basis(plan, tokens, channels)
    score(plan.score)
    module = _module(plan.score)
    if layer == 0 and needs_layer_before(plan.score):
        raise PlanError(
            "this score compares two layers, and there is none before the first prune",
            where="plan.keep[0]",
            got=f"score {plan.score!r} keeping {plan.keep[0]} of {plan.span_tokens} tokens at layer 0",
            fix="prune from layer 1 on, or choose another score",
        )
    made: Tensor | None = module.constant(plan, layer, tokens) if hasattr(module, "constant") else None
    return made


def basis(plan: Plan, tokens: int, channels: int) -> Tensor:
    """The plan's low-pass basis for ``tokens`` visual tokens of ``channels`` channels.

    ``2d`` needs the grid: once tokens were pruned it is broken and the span is filtered in 1-D. With a joint budget
    every image has its own block, so that scores are those of the image alone.
    """
    if plan.axis == "channel":
        return spu.lowpass_basis(channels, plan.rho)
    if plan.spectrum == "2d" and tokens == plan.span_tokens:
        return torch.block_diag(*[spu.lowpass_basis_2d(*plan.merged_grid, plan.rho)] * plan.joint_images)
    return spu.lowpass_basis(tokens, plan.rho)


def _module(name: str):  # type: ignore[no-untyped-def]
    return import_module(f"{__name__}.{name}")
