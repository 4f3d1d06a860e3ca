"""Merging instead of pruning inside the LLM: the OIM axis passes on the visual span's grid (ours, not in the abstract).

What merges is not lost: hidden states, rotary positions and logical order of merged tokens are averaged by size. The
grid stays rectangular at every stage, so every shape is static.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.export.compression import oim


class Mass(NamedTuple):
    """What merging must know beside ``decoder.Span``.

    Sizes fp32 [B, G * N], positions [A, B, G * N], and whether tokens may be padding, which sizes tell.
    """

    sizes: Tensor
    positions: Tensor
    padded: bool


def merge(
    normed: Tensor,
    parts: list[Tensor],
    sizes: Tensor,
    grid: tuple[int, int],
    target: tuple[int, int],
    padded: bool = False,
) -> tuple[list[Tensor], Tensor]:
    """Merge a span from ``grid`` to ``target``: columns first, then rows, in as many passes as halving needs.

    Args:
        normed: Decides what is alike [M, N, D], M images.
        parts: What is averaged, each [M, N, C].
        sizes: Units each token stands for, fp32 [M, N].
        grid: (rows, columns), rows * columns = N.
        target: (rows, columns) to reach.
        padded: Whether tokens may be padding: see ``oim.assign``.

    Returns:
        The parts in fp32 [M, N', C] and the sizes [M, N'].
    """
    images, rows, columns = normed.shape[0], *grid
    widths = [normed.shape[2], *(part.shape[2] for part in parts)]
    values = torch.cat([part.float() for part in (normed, *parts)], 2)
    values = values.reshape(images, rows, columns, sum(widths))
    mass = sizes.reshape(images, rows, columns, 1)
    while (rows, columns) != target:
        step = min(columns - target[1], columns // 2)
        values, mass = _columns(values, mass, widths[0], step, padded)
        columns -= step
        step = min(rows - target[0], rows // 2)
        values, mass = (part.transpose(1, 2) for part in _columns(*_turn(values, mass), widths[0], step, padded))
        rows -= step
    values = values.reshape(images, rows * columns, sum(widths))
    return list(values.split(widths, 2))[1:], mass.reshape(images, rows * columns)


def _turn(values: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    return values.transpose(1, 2), mass.transpose(1, 2)


def _columns(values: Tensor, mass: Tensor, metric: int, removed: int, padded: bool) -> tuple[Tensor, Tensor]:
    """One axis pass over [M, R, W, C]; the first ``metric`` channels decide."""
    if not removed:
        return values, mass
    images, rows, width, channels = values.shape
    flat, weight = _padded(values), _padded(mass)
    assignment = oim.assign(flat[:, :, :metric], removed, weight if padded else None)
    total = assignment @ weight
    mean = (assignment @ (flat * weight) / total)[:-1]
    shape = (images, rows, width - removed)
    return mean.reshape(*shape, channels), total[:-1].reshape(*shape, 1)


def _padded(values: Tensor) -> Tensor:
    """[M, R, W, C] -> [M * R + 1, W, C]: a row of ones at the end, as ONNX Runtime fails on no rows at all (decode)."""
    images, rows, width, channels = values.shape
    return torch.cat([values.reshape(images * rows, width, channels), values.new_ones(1, width, channels)])
