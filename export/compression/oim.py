"""OIM, the orthogonal iterative merger: rows, then columns, in static shapes.

The abstract of arXiv 2512.09010 states an iterative merging scheme "orthogonal in spatial axes" inside the encoder;
matching, sizes and the one-hot form below are a reconstruction. Deciding (``assign``) is separate from moving
(``merge_axis``), so sizes and positions reuse one decision. No scatter, mask, sort or data-dependent shape.

Units that show padding alone are small: ``PADDING`` in place of 1. That size says what they are in every pass: pairs of
them leave first, a pair of padding and picture leaves last, and where it must, the picture's mean stays its own.

Shapes: R rows that merge independently, W tokens in each, r removed, k = W - r kept, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.operators import MERGE_COLUMNS
from luvc_export.core.plan import MergeMode, MergePass
from luvc_export.core.plan.merging import Box, Planned
from luvc_export.export.compression import marks, spu

#: Size of a unit of padding. Eight million merged ones stay below ``HALF``, and next to 1 it is lost in the rounding
#: of fp32 (a power of two, so that sums are exact; the smallest number that fp16 has too).
PADDING = 2.0**-24
#: Units below are padding alone.
HALF = 0.5


class Units(NamedTuple):
    """State of one image's units between passes.

    Attributes:
        x: Hidden states [B, H, W, C].
        sizes: Original units each one stands for, fp32 [B, H, W].
        positions: Mean (row, column), fp32 [B, H, W, 2].
        copies: Original (row, column) pairs a unit carries, fp32 [B, H, W, 2 * copies] (``multi`` positions).
        merged_into: Place in row-major (H, W) of every original unit, int64 [B, H0 * W0].
    """

    x: Tensor
    sizes: Tensor
    positions: Tensor
    copies: Tensor
    merged_into: Tensor


def start(x: Tensor, copies: int = 1, padding: Tensor | None = None) -> Units:
    """Units [B, H, W, C] before any pass: size 1, integer positions, each carrying itself ``copies`` times.

    ``padding``, bool [B, H, W], marks units that show padding alone.
    """
    batch, rows, columns = x.shape[:3]
    row, column = torch.arange(rows)[:, None].expand(-1, columns), torch.arange(columns).expand(rows, -1)
    place = torch.stack([row, column], -1).to(torch.float32).expand(batch, -1, -1, -1)
    sizes = torch.ones(rows, columns).expand(batch, -1, -1)
    if padding is not None:
        sizes = torch.where(padding, PADDING, 1.0)
    index = torch.arange(rows * columns).expand(batch, -1)
    return Units(x, sizes, place, place if copies == 1 else place.repeat(1, 1, 1, copies), index)


def merge(units: Units, step: MergePass, mode: MergeMode = "mean", padded: bool = False) -> Units:
    """One pass: ``step.columns`` columns leave every row, then ``step.rows`` rows leave every column.

    ``padded`` says that units may be padding, which their sizes tell.
    """
    if marks.marks():
        return _marked(_marked(units, 0, step.columns, mode), step.rows, 0, mode)
    return _flip(_merge_rows(_flip(_merge_rows(units, step.columns, mode, padded)), step.rows, mode, padded))


def _marked(units: Units, rows: int, columns: int, mode: MergeMode) -> Units:
    """One axis pass as a mark; whether units may be padding is the plan's to say, which surgery has.

    Single copies, which nothing reads, stay the mean positions: no graph moves them apart.
    """
    if not rows and not columns:
        return units
    batch, height, width = units.x.shape[:3]
    alone = units.copies.shape[-1] == units.positions.shape[-1]
    copies = units.positions if alone else units.copies
    state = {"values": units.x, "sizes": units.sizes, "positions": units.positions, "copies": copies}
    size = {"height": height, "width": width, "removed_rows": rows, "removed_columns": columns, "mode": mode}
    left = (batch, height - rows, width - columns)
    like: dict[str, marks.Like] = {
        f"merged_{name}": (part.dtype, (*left, *part.shape[3:])) for name, part in state.items()
    }
    like["merged_into"] = (torch.int64, (batch, height * width))
    merged = marks.mark(MERGE_COLUMNS, state, size, like, "" if columns else MERGE_COLUMNS.variants[0])
    into = merged["merged_into"].gather(1, units.merged_into)
    x, sizes, positions, copies = (merged[f"merged_{name}"] for name in state)
    return Units(x, sizes, positions, positions if alone else copies, into)


def assign(x: Tensor, removed: int, sizes: Tensor | None = None) -> Tensor:
    """Decide one axis pass: one-hot assignment fp32 [R, W - removed, W] of every token to the kept token it joins.

    Every odd token looks at its left and right even neighbour (cosine, fp32) and takes the more similar one; the
    ``removed`` most similar odd tokens join theirs; every other token stays. Kept tokens stay in order.

    Args:
        x: [R, W, C].
        removed: Python int in 0..W // 2.
        sizes: fp32 [R, W, 1] where units may be padding: pairs of it leave first, from the left, and pairs of padding
            and picture last.
    """
    width = x.shape[1]
    odd = width // 2
    place = torch.tensor([*range(width)])
    own_odd = torch.tensor([*range(1, 2 * odd, 2)])
    unit = torch.nn.functional.normalize(x.float(), dim=-1)
    cosine = (unit[:, :-1] * unit[:, 1:]).sum(-1)
    if sizes is not None:
        cosine = _beside_padding(cosine, (sizes[:, :, 0] < HALF).float())
    left = cosine[:, 0 : 2 * odd : 2]
    missing = -2.0 if sizes is None else BELOW_PADDING
    right = torch.nn.functional.pad(cosine[:, 1::2], (0, odd - (width - 1) // 2), value=missing)
    chosen = spu.best(torch.maximum(left, right), removed)
    joins = (chosen[:, :, None] == torch.tensor([*range(odd)])).any(1)
    target_of_odd = torch.where(joins, torch.where(right > left, own_odd + 1, own_odd - 1), own_odd)
    spread = target_of_odd.index_select(1, torch.tensor([min(p // 2, odd - 1) for p in range(width)]))
    target = torch.where(torch.tensor([p % 2 == 1 for p in range(width)]), spread, place)
    key = torch.where(target == place, place, place + width)
    kept = spu.least(key, width - removed)
    return (kept[:, :, None] == target[:, None, :]).float()


#: Below every value of ``_beside_padding``.
BELOW_PADDING = -8.0


def _beside_padding(cosine: Tensor, padding: Tensor) -> Tensor:
    """Similarity of neighbours [R, W - 1] where ``padding`` [R, W] is 1 for padding and 0 for picture.

    Of two pictures the cosine; of two paddings above 3, of one and one at most -3, the leftmost pair first: with equal
    values the choice would be the back-end's.
    """
    first, second = padding[:, :-1], padding[:, 1:]
    both, one = first * second, (first - second).abs()
    pairs = cosine.shape[1]
    share = torch.tensor([*range(pairs)], dtype=torch.float32) / pairs
    return cosine * (1 - both) * (1 - one) + (both * (4 - share) - one * (3 + share))


def _merge_rows(units: Units, removed: int, mode: MergeMode, padded: bool) -> Units:
    if removed == 0:
        return units
    batch, rows, columns, channels = units.x.shape
    kept = columns - removed
    x = units.x.reshape(batch * rows, columns, channels)
    sizes = units.sizes.reshape(batch * rows, columns, 1)
    assignment = assign(x, removed, sizes if padded else None)
    new_sizes = assignment @ sizes

    def mean(values: Tensor) -> Tensor:
        flat = values.reshape(batch * rows, columns, -1)
        weighted = assignment @ (flat.float() * sizes) / new_sizes
        return weighted.reshape(batch, rows, kept, -1)

    merged = mean(units.x).to(x.dtype) if mode == "mean" else _largest(x, assignment).reshape(batch, rows, kept, -1)
    new_column = (assignment * torch.arange(kept, dtype=torch.float32)[:, None]).sum(1)
    new_place = new_column.reshape(batch, rows, columns) + kept * torch.arange(rows)[:, None]
    return Units(
        merged,
        new_sizes.reshape(batch, rows, kept),
        mean(units.positions),
        _spread_copies(units.copies.reshape(batch * rows, columns, -1), assignment).reshape(batch, rows, kept, -1),
        new_place.to(torch.int64).reshape(batch, rows * columns).gather(1, units.merged_into),
    )


def _largest(x: Tensor, assignment: Tensor) -> Tensor:
    """Per channel, the value of largest magnitude among a kept token's members [R, k, C] (the ``max`` ablation).

    A kept token has at most three members, itself and its two neighbours, so three one-hot products find them.
    """
    width = x.shape[1]
    rank = (assignment @ torch.ones(width, width).triu()) * assignment
    members = [((rank == number).float() @ x.float()) for number in (1, 2, 3)]
    best = members[0]
    for member in members[1:]:
        best = torch.where(member.abs() > best.abs(), member, best)
    return best.to(x.dtype)


def _spread_copies(copies: Tensor, assignment: Tensor) -> Tensor:
    """Slot j of n takes slot j of member floor(j * members / n): original positions spread evenly (reconstruction).

    PPE (ICLR'26, an overlapping author group) lets a merged token carry several original positions.
    """
    slots = copies.shape[-1] // 2
    width = copies.shape[1]
    rank = (assignment @ torch.ones(width, width).triu()) * assignment
    members = assignment.sum(-1, keepdim=True)
    picked = [
        (rank == 1 + torch.floor(members * (slot / slots))).float() @ copies[..., 2 * slot : 2 * slot + 2]
        for slot in range(slots)
    ]
    return torch.cat(picked, -1)


def _flip(units: Units) -> Units:
    """Swap rows and columns of the grid, ``merged_into`` with them."""
    rows, columns = units.x.shape[1:3]
    row = units.merged_into // columns
    column = units.merged_into - row * columns
    return Units(
        units.x.transpose(1, 2),
        units.sizes.transpose(1, 2),
        units.positions.transpose(1, 2),
        units.copies.transpose(1, 2),
        column * rows + row,
    )


def merge_planned(units: Units, planned: Planned, mode: MergeMode = "mean", padded: bool = False) -> Units:
    """``planned`` on the grid it was made for, along whole rows and columns or inside windows; see ``merge``.

    Windows of one size merge as if each were an image of its own (on a larger batch), so the arithmetic, the fused node
    and the plugin are those of the pass along whole axes (window-local passes: ours, not in the abstract).
    """
    if not planned.step.window:
        return merge(units, planned.step, mode, padded)
    columns = planned.after[1].units
    lines: dict[int, list[Units]] = {}
    top: dict[int, int] = {}
    for box in planned.boxes:
        left = sum(part.x.shape[2] for part in lines.get(box.top, []))
        above = top.setdefault(box.top, sum(parts[0].x.shape[1] for parts in lines.values()))
        merged = _box(units, box, mode, padded, above, left, columns)
        lines.setdefault(box.top, []).append(merged)
    whole = [_join([part[i] for part in parts], 2) for i in range(5) for parts in lines.values()]
    count = len(lines)
    x, sizes, positions, copies, into = (_join(whole[i * count : (i + 1) * count], 1) for i in range(5))
    return Units(x, sizes, positions, copies, into.flatten(1).gather(1, units.merged_into))


def _box(units: Units, box: Box, mode: MergeMode, padded: bool, above: int, left: int, columns: int) -> Units:
    """The windows of a box merged; ``merged_into`` is [B, rows, columns] of the box before, in places of the result.

    Args:
        units: The whole grid.
        box: Equal windows.
        mode: See ``merge``.
        padded: See ``merge``.
        above: Rows of the result before this box.
        left: Columns of the result before this box.
        columns: Columns of the whole result.
    """
    own = torch.arange(box.height * box.width)
    x, sizes, positions, copies = (_apart(part, box) for part in units[:4])
    merged = Units(x, sizes, positions, copies, own.expand(x.shape[0], -1))
    if box.rows or box.columns:
        merged = merge(merged, MergePass(0, box.rows, box.columns), mode, padded)
    height, width = box.height - box.rows, box.width - box.columns
    place = merged.merged_into.reshape(-1, box.down, box.across, box.height, box.width)
    inside = torch.tensor([row * columns + column for row in range(height) for column in range(width)])
    begins = torch.tensor(
        [[(above + height * i) * columns + left + width * j for j in range(box.across)] for i in range(box.down)]
    )
    there = inside.index_select(0, place.flatten()).reshape(place.shape) + begins[:, :, None, None]
    into = _together(there)
    x, sizes, positions, copies = (_together(part.unflatten(0, (-1, box.down, box.across))) for part in merged[:4])
    return Units(x, sizes, positions, copies, into)


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
