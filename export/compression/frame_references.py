"""How unlike a token is to the one at its place in another frame of its clip: what EVS and DyCoke rank by.

Shapes: B rows of a batch, G groups, F frames that share a budget, n tokens of a frame, N = F * n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.export.compression.row_reductions import norms, sums

#: Above every dissimilarity (0 to 2): the score of tokens that nothing is compared with. vLLM's EVS has 255.
ALONE = 255.0
#: DyCoke's (arXiv 2411.15024) four frames: which one each is compared with, None for the one that stays whole.
DYCOKE_REFERENCE = (None, 0, 0, 2)
#: And how many of 196 tokens each of them keeps.
DYCOKE_BUDGET = (196, 58, 58, 58)


def evs_references(frames: int) -> list[int | None]:
    """The frame before; none for the first."""
    return [None, *range(frames - 1)]


def dycoke_references(frames: int) -> list[int | None]:
    """By windows of four; what is left over at the end is a window that stops early."""
    references: list[int | None] = []
    for frame in range(frames):
        other = DYCOKE_REFERENCE[frame % 4]
        references.append(None if other is None else frame - frame % 4 + other)
    return references


def dycoke_shares(frames: int) -> Tensor:
    """Shares of a budget, fp32 [F], adding up to 1."""
    budget = torch.tensor([float(DYCOKE_BUDGET[frame % 4]) for frame in range(frames)])
    return budget / budget.sum()


def unlike(normed: Tensor, references: list[int | None], even: Tensor) -> Tensor:
    """``1 - cos`` of each token and the one at its place in its frame's reference, fp32 [B, G, N].

    Args:
        normed: fp32 [B, G, N, D], every token of every frame, in order.
        references: Of each frame; ``ALONE`` is the score where there is none.
        even: [N], the order of tokens that nothing is compared with.
    """
    batch, groups, tokens, width = normed.shape
    frames = len(references)
    if not any(at is not None for at in references):
        # a condition that is true throughout would fold to the row alone, without batch and groups, in OpenVINO
        return (ALONE + even).expand(batch, groups, tokens)
    unit = (normed / norms(normed)[..., None].clamp(min=1e-12)).reshape(batch, groups, frames, tokens // frames, width)
    other = unit[:, :, torch.tensor([frame if at is None else at for frame, at in enumerate(references)])]
    alike = sums((unit * other).reshape(batch, groups, tokens, width))
    alone = torch.tensor([at is None for at in references for _ in range(tokens // frames)])
    return torch.where(alone, ALONE + even, 1 - alike)
