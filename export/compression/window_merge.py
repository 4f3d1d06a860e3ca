"""One planned merge pass on the grid: along whole rows and columns, or inside windows, every one apart.

Windows of one size merge as if each were an image of its own (``oim.merge`` on a larger batch), so the arithmetic, the
fused node and the plugin are those of the pass along whole axes (window-local passes: ours, not in the abstract).
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import MergeMode, MergePass
from luvc_export.core.plan.merging import Box, Planned
from luvc_export.export.compression import oim


def merge(units: oim.Units, planned: Planned, mode: MergeMode = "mean", padded: bool = False) -> oim.Units:
    """``planned`` on the grid it was made for; see ``oim.merge`` for the rest."""
    if not planned.step.window:
        return oim.merge(units, planned.step, mode, padded)
    columns = planned.after[1].units
    lines: dict[int, list[oim.Units]] = {}
    top: dict[int, int] = {}
    for box in planned.boxes:
        left = sum(part.x.shape[2] for part in lines.get(box.top, []))
        above = top.setdefault(box.top, sum(parts[0].x.shape[1] for parts in lines.values()))
        merged = _box(units, box, mode, padded, above, left, columns)
        lines.setdefault(box.top, []).append(merged)
    whole = [_join([part[i] for part in parts], 2) for i in range(5) for parts in lines.values()]
    count = len(lines)
    x, sizes, positions, copies, into = (_join(whole[i * count : (i + 1) * count], 1) for i in range(5))
    return oim.Units(x, sizes, positions, copies, into.flatten(1).gather(1, units.merged_into))


def _box(units: oim.Units, box: Box, mode: MergeMode, padded: bool, above: int, left: int, columns: int) -> oim.Units:
    """The windows of a box merged; ``merged_into`` is [B, rows, columns] of the box before, in places of the result.

    Args:
        units: The whole grid.
        box: Equal windows.
        mode: See ``oim.merge``.
        padded: See ``oim.merge``.
        above: Rows of the result before this box.
        left: Columns of the result before this box.
        columns: Columns of the whole result.
    """
    own = torch.arange(box.height * box.width)
    x, sizes, positions, copies = (_apart(part, box) for part in units[:4])
    merged = oim.Units(x, sizes, positions, copies, own.expand(x.shape[0], -1))
    if box.rows or box.columns:
        merged = oim.merge(merged, MergePass(0, box.rows, box.columns), mode, padded)
    height, width = box.height - box.rows, box.width - box.columns
    place = merged.merged_into.reshape(-1, box.down, box.across, box.height, box.width)
    inside = torch.tensor([row * columns + column for row in range(height) for column in range(width)])
    begins = torch.tensor(
        [[(above + height * i) * columns + left + width * j for j in range(box.across)] for i in range(box.down)]
    )
    there = inside.index_select(0, place.flatten()).reshape(place.shape) + begins[:, :, None, None]
    into = _together(there)
    x, sizes, positions, copies = (_together(part.unflatten(0, (-1, box.down, box.across))) for part in merged[:4])
    return oim.Units(x, sizes, positions, copies, into)


def _apart(x: Tensor, box: Box) -> Tensor:
    """Windows of a box as a batch: [B, H, W, ...] -> [B * windows, height, width, ...]."""
    part = x[:, box.top : box.top + box.down * box.height, box.left : box.left + box.across * box.width]
    part = part.unflatten(2, (box.across, box.width)).unflatten(1, (box.down, box.height))
    return part.transpose(2, 3).flatten(0, 2)


def _together(x: Tensor) -> Tensor:
    """Windows side by side again: [B, down, across, h, w, ...] -> [B, down * h, across * w, ...]."""
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _join(parts: list[Tensor], axis: int) -> Tensor:
    return torch.cat(parts, axis) if len(parts) > 1 else parts[0]
