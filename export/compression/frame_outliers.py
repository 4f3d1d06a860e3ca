"""VidCom2 (arXiv 2505.14454): tokens unlike their clip and unlike their frame stay, unusual frames get more of them.

Reconstruction where its description is silent: features are brought to length 1, and similarities to the means of the
clip and of the frame count alike. It keeps the half of the channels that vary least; here the others become 0.

Shapes: B rows of a batch, G groups, F frames that share a budget, N tokens of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import norms, sums

#: Widths of the Gaussian kernels that are added up.
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
#: Of the softmax over frames.
TEMPERATURE = 0.01


def alike(normed: Tensor, one_hot: Tensor) -> Tensor:
    """Similarity of each token to the means of its clip and of its frame, fp32 [B, G, N].

    Args:
        normed: fp32 [B, G, N, D].
        one_hot: fp32 [B, G, F, N], whose tokens they are; 0 throughout for padding.
    """
    steady = _steady(normed)
    unit = steady / norms(steady)[..., None].clamp(min=1e-12)
    counts = sums(one_hot).clamp(min=1)[..., None]
    frames = one_hot.transpose(2, 3) @ ((one_hot @ unit) / counts)
    real = sums(one_hot.transpose(2, 3))[..., None]
    clip = (unit * real).sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp(min=1)
    return _kernels(unit - clip) + _kernels(unit - frames)


def shares(normed: Tensor, one_hot: Tensor) -> Tensor:
    """Shares of a budget, fp32 [B, G, F], adding up to 1: ``(1 + p_f - 1 / F) / F``.

    ``p`` is the softmax over frames of how unlike their tokens are on the mean.
    """
    count = one_hot.shape[2]
    mean = (one_hot @ alike(normed, one_hot)[..., None])[..., 0] / sums(one_hot).clamp(min=1)
    return (1 + (-mean / TEMPERATURE).softmax(-1) - 1 / count) / count


def _steady(normed: Tensor) -> Tensor:
    """The channels that vary least over the tokens, the others 0."""
    centred = normed - normed.mean(2, keepdim=True)
    variance = (centred * centred).mean(2, keepdim=True)
    half = variance.shape[-1] // 2
    limit = spu.least(variance[:, :, 0], half)[:, :, None, half - 1 :]
    return torch.where(variance <= limit, normed, torch.zeros_like(normed))


def _kernels(apart: Tensor) -> Tensor:
    square = sums(apart * apart)
    return sum((torch.exp(square * (-0.5 / width)) for width in WIDTHS), torch.zeros_like(square))
