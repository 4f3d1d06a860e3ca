"""Merging instead of pruning inside the LLM: the OIM axis passes on the visual span's grid (ours, not in the abstract).

What merges is not lost: hidden states, rotary positions and logical order of merged tokens are averaged by size. The
grid stays rectangular at every stage, so every shape is static.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import oim
from luvc_export.export.llm.rope import Rope
from luvc_export.export.llm.span import Span


class Mass(NamedTuple):
    """What merging must know beside ``decoder.Span``.

    Sizes fp32 [B, G * N], positions [A, B, G * N], and whether tokens may be padding, which sizes tell.
    """

    sizes: Tensor
    positions: Tensor
    padded: bool

    @classmethod
    def of(cls, order: Tensor, positions: Tensor, padding: Tensor | None) -> Mass:
        """Of a span where each token stands for one unit; ``order`` [B, G * N], ``padding`` bool [B, G, N]."""
        sizes = torch.ones_like(order, dtype=torch.float32)
        if padding is not None:
            sizes = torch.where(padding.flatten(1), oim.PADDING, 1.0)
        return cls(sizes, positions, padding is not None)

    def void(self, groups: int, count: int) -> Tensor:
        """Which of ``count`` tokens of each group are padding alone, bool [B, G, count]."""
        return self.sizes.unflatten(1, (groups, count)) < 0.5


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


def merge_span(
    plan: Plan,
    rope: Rope,
    number: int,
    x: Tensor,
    normed: Tensor,
    span: Span,
    mass: Mass,
    groups: int,
    count: int,
) -> tuple[Tensor, Span, Mass]:
    """Merge the span to the grid that layer ``number`` has; what merges is alike in ``normed``.

    Args:
        plan: Grids and budgets.
        rope: Angles of merged rows.
        number: The layer.
        x: [visual | text] rows [B, G * N + T, D].
        normed: Visual rows after the layer's input norm, fp32 [B, G * N, D].
        span: Of the visual rows.
        mass: Of the visual rows.
        groups: G.
        count: N.
    """
    grids = [plan.merged_grid, *(grid for at, grid in plan.stage_grids.items() if at < number)]
    keep, target = plan.keep[number], plan.stage_grids[number]
    visual, batch, dtype = x[:, : groups * count], x.shape[0], x.dtype
    axes = mass.positions.shape[0]
    parts = [visual, torch.stack(mass.positions.unbind(0), 2), span.order[:, :, None].float()]
    parts += [] if span.planes is None else [span.planes]
    flat = [part.reshape(batch * groups, count, part.shape[2]) for part in (normed, *parts)]
    sizes = mass.sizes.reshape(batch * groups, count)
    merged, sizes = merge(flat[0], flat[1:], sizes, grids[-1], target, mass.padded)
    rows = [part.reshape(batch, groups * keep, part.shape[2]) for part in merged]
    positions = torch.stack(rows[1].reshape(batch, groups * keep, axes).unbind(2))
    cos, sin = rope(positions)
    index = span.kept[:, :, :keep]
    planes = None if span.planes is None else rows[3].to(dtype)
    span = Span(rows[2][:, :, 0].floor().to(torch.int64), cos, sin, index, planes)
    mass = Mass(sizes.reshape(batch, groups * keep), positions, mass.padded)
    return torch.cat([rows[0].to(dtype), x[:, groups * count :]], 1), span, mass
