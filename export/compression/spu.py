"""SPU, the spectrum pruning unit: select the K best visual tokens of every image, order kept.

The abstract of arXiv 2512.09010 states an "attention/similarity-free low-pass filter" that prunes gradually and
leaves no visual token at the last layer. That the filter gives a per-token score whose top K stay is a reconstruction.

Shapes: B rows of a batch, G images a row, N visual tokens an image, K kept, D channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cutoff(length: int, rho: float) -> int:
    """Highest frequency that passes: ``floor(rho * length / 2)``."""
    return math.floor(rho * length / 2)


def lowpass_basis(length: int, rho: float) -> Tensor:
    """Orthonormal low-frequency basis fp32 [length, m], m = min(2 * cutoff + 1, length).

    ``F @ F.T`` is exactly rFFT, ideal low-pass at ``cutoff``, inverse rFFT; made in float64.
    """
    place = torch.arange(length, dtype=torch.float64)
    columns = [torch.full((length,), length**-0.5, dtype=torch.float64)]
    for frequency in range(1, cutoff(length, rho) + 1):
        angle = 2 * math.pi * frequency / length * place
        if 2 * frequency == length:
            columns.append(length**-0.5 * angle.cos())
        else:
            columns += [math.sqrt(2 / length) * angle.cos(), math.sqrt(2 / length) * angle.sin()]
    return torch.stack(columns, 1).float()


def lowpass_basis_2d(rows: int, columns: int, rho: float) -> Tensor:
    """Separable basis fp32 [rows * columns, m] of a row-major grid: the product of the two axes' bases."""
    down, across = lowpass_basis(rows, rho), lowpass_basis(columns, rho)
    return (down[:, None, :, None] * across[None, :, None, :]).flatten(2).flatten(0, 1)


def lowpass(normed: Tensor, basis: Tensor) -> Tensor:
    """Filter [B, G, N, D] along N with ``basis`` [N, m].

    One 2-D product over all images: a batched one with no image in the batch fails in ONNX Runtime.
    """
    batch, groups, tokens, channels = normed.shape
    columns = normed.transpose(2, 3).reshape(batch * groups * channels, tokens)
    smooth = (columns @ basis) @ basis.T
    return smooth.reshape(batch, groups, channels, tokens).transpose(2, 3)


#: How far below 0 each token of padding stands from the one before: below all scores, apart from each other in fp32.
PADDING_STEP = 1e30


def padding_last(score: Tensor, index: Tensor) -> Tensor:
    """Scores [B, G, N] in which padding stands below everything, the first of it least, whatever it scored.

    ``index``, int64 [B, G, N], is ``-1 - place`` for padding: see ``mark_padding``. An order by place and not by score
    gives every back-end the same choice where a budget is larger than the picture.
    """
    return score - torch.relu(-index.float()) * PADDING_STEP


def mark_padding(index: Tensor, padding: Tensor) -> Tensor:
    """Places int64 [B, G, N] with ``-1 - place`` for padding, bool [B, G, N]: the mark travels with the place."""
    return torch.where(padding, -1 - index, index)


def unmark(index: Tensor) -> Tensor:
    """Places again."""
    return torch.where(index < 0, -1 - index, index)


def traced() -> bool:
    """Whether a graph is being made of what is computed."""
    return torch.compiler.is_exporting() or torch.compiler.is_compiling()


def best(score: Tensor, keep: int) -> Tensor:
    """Indices int64 [..., R, keep] of the ``keep`` largest scores [..., R, N], largest first; of equal ones the first.

    ONNX defines TopK so, and traced it is a TopK; torch's own promises no winner, so outside of a trace it sorts.
    """
    if traced():
        return torch.topk(_and_a_row(score), keep).indices[..., :-1, :]
    return torch.sort(score, dim=-1, descending=True, stable=True).indices[..., :keep]


def select(score: Tensor, keep: int) -> Tensor:
    """Indices int64 [B, G, keep] of the ``keep`` largest scores [B, G, N], ascending; of equal ones the first."""
    if traced():
        ranked = torch.topk(_and_a_row(score), keep).indices
        return torch.topk(ranked, keep, largest=False, sorted=True).values[..., :-1, :]
    return least(best(score, keep), keep)


def least(values: Tensor, count: int) -> Tensor:
    """The ``count`` smallest [..., R, count] of the last axis of [..., R, N], ascending."""
    if traced():
        return torch.topk(_and_a_row(values), count, largest=False, sorted=True).values[..., :-1, :]
    return torch.topk(values, count, largest=False, sorted=True).values


def _and_a_row(values: Tensor) -> Tensor:
    """[..., R, N] with a row of zeros behind.

    A step has no image, and ONNX Runtime before 1.31 divides by zero in a TopK of no rows.
    """
    return torch.cat([values, values.new_zeros(*values.shape[:-2], 1, values.shape[-1])], -2)


def flat_index(indices: Tensor, tokens: int) -> Tensor:
    """Turn [B, G, K] indices into places in a flattened [B * G * tokens] axis, int64 [B * G * K].

    A flat gather works with no image in the batch, where expanded two-axis gathers fail.
    """
    batch, groups, keep = indices.shape
    base = torch.arange(batch * groups, device=indices.device).reshape(batch, groups, 1) * tokens
    return (indices + base).reshape(batch * groups * keep)


def gather(values: Tensor, flat: Tensor, groups: int, tokens: int, keep: int) -> Tensor:
    """Keep rows of a visual span [B, G * tokens, ...] -> [B, G * keep, ...] at ``flat`` from ``flat_index``."""
    batch, rest = values.shape[0], values.shape[2:]
    rows = values.reshape(batch * groups * tokens, *rest)
    return rows.index_select(0, flat).reshape(batch, groups * keep, *rest)
