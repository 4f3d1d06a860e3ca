"""Learned positions of a square grid, brought to the grid of a picture: bilinear, computed in the graph."""

from __future__ import annotations

import torch
from torch import Tensor

#: The two table places, int64 [count, 2], of points along an axis, and their shares, fp32 [count, 2].
Taps = tuple[Tensor, Tensor]


def corner_taps(count: int, size: int) -> Taps:
    """``count`` points spread over 0 .. size - 1, both ends included (``align_corners``)."""
    return _taps(torch.linspace(0, size - 1, count), size)


def centre_taps(count: int, size: int) -> Taps:
    """Centres of ``count`` equal parts of ``size``, those before the first and behind the last place at the border."""
    return _taps((torch.arange(count) + 0.5) * (size / count) - 0.5, size)


def interpolated(table: Tensor, size: int, rows: Taps, columns: Taps, side: int) -> Tensor:
    """Positions of every patch, those of a unit together.

    Args:
        table: [size * size, C].
        size: Of its side.
        rows: Of every row of patches.
        columns: Of every column.
        side: Patches along a unit.

    Returns:
        [rows * columns, C].
    """
    place = rows[0][:, None, :, None] * size + columns[0][None, :, None, :]
    share = rows[1][:, None, :, None] * columns[1][None, :, None, :]
    high, wide = len(rows[0]) // side, len(columns[0]) // side
    order = torch.arange(high * wide * side**2)
    order = order.reshape(high, side, wide, side).transpose(1, 2).flatten()
    place, share = place.reshape(-1, 4)[order], share.reshape(-1, 4)[order]
    corners = table.index_select(0, place.flatten()).unflatten(0, place.shape)
    return (corners * share[:, :, None].to(table.dtype)).sum(1)


def _taps(point: Tensor, size: int) -> Taps:
    low = point.floor().long()
    share = point - low
    return torch.stack([low, low + 1], 1).clamp(0, size - 1), torch.stack([1 - share, share], 1)


def antialiased(table: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Positions of every patch row by row, as ``interpolate(..., "bilinear", antialias=True)`` has them, fp32.

    Args:
        table: [size * size, C].
        down: Shares of every row of patches, fp32 [rows, size].
        across: Of every column, fp32 [columns, size].

    Returns:
        [rows * columns, C].
    """
    size = down.shape[1]
    wide = torch.matmul(across, table.float().unflatten(0, (size, size)))
    return torch.matmul(down, wide.flatten(1)).reshape(-1, table.shape[1])


def antialiased_shares(count: int, size: int) -> Tensor:
    """Share of every table place in each of ``count`` points along an axis, fp32 [count, size].

    Axes are apart in it, so that a product with what the identity becomes does the same.
    """
    identity = torch.eye(size)[None, None]
    shares = torch.nn.functional.interpolate(
        identity, size=(count, size), mode="bilinear", align_corners=False, antialias=True
    )
    return shares[0, 0]
