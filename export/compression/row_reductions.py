"""Reductions over channels that also hold for no image at all (decode).

ONNX Runtime 1.31 returns an empty tensor from Reduce* with its rank unreduced, so the result must be reshaped by a node
that no optimiser can take for the identity: hence the two-dimensional detour.
"""

from __future__ import annotations

import torch
from torch import Tensor


def norms(x: Tensor) -> Tensor:
    """L2 norm of each row, [B, G, N, D] -> fp32 [B, G, N]."""
    batch, groups, tokens, width = x.shape
    return x.reshape(batch * groups * tokens, width).float().norm(dim=-1).reshape(batch, groups, tokens)


def sums(x: Tensor) -> Tensor:
    """Sum of each row, [B, G, N, D] -> [B, G, N]."""
    batch, groups, tokens, width = x.shape
    return x.reshape(batch * groups * tokens, width).sum(-1).reshape(batch, groups, tokens)


def mark(indices: Tensor, tokens: int) -> Tensor:
    """1.0 at the given indices, 0.0 elsewhere: int64 [B, G, P], all different -> fp32 [B, G, tokens]."""
    hits = torch.arange(tokens)[:, None] == indices[:, :, None, :]
    return sums(hits.to(torch.float32))
