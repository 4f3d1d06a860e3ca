"""Merge units of clips along time between encoder blocks, and bring them back, in static shapes.

Every place of the grid is a line of its own, as every row is where OIM merges columns: each round that pair of
neighbours in time merges which adds least to the squares inside (Ward 1963, here of normed units: the distance of two
means times a * b / (a + b), a and b how many they are of), and a pair's mean counts by size. Without the sizes a long
still stretch drew short ones in. What is left of all places then stands as so many frames, whose units at one number
need not be of one moment.

Most of a film stands still, so the pairs that compete are nearly equal, and a cosine near 1 has lost what tells them
apart: two back-ends chose by its rounding, with answers that differed. The squared distance of the normed units is
twice what a cosine lacks of 1 and keeps its digits; below ``STILL``, and below ``QUIET`` of a place's largest change, a
pair counts as equal, and the first one merges. Else each place would choose by its grain where more units are left than
it has changes, and places that change together would stand in different frames.

Shapes: c clips of M frames, K frames left of each, U units of a frame, P patches of a unit, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.plan.merging import TimeMerge
from luvc_export.export.compression import spu

#: Far above what fp32 rounds in a block or two, far below what moving changes.
STILL = 1e-9
#: Of a place's largest squared distance: on films of digits 0.01 and 0.03 are alike, 0.1 and more harm.
QUIET = 0.01


class Merged(NamedTuple):
    """What merging decided.

    Attributes:
        joins: One-hot, which unit each of a place's M became part of, fp32 [c * U, K, M].
        before: Units of every frame when they merged, fp32 [c * U, M, P * C].
        start: Those that are left, then, fp32 [c * U, K, P * C].
    """

    joins: Tensor
    before: Tensor
    start: Tensor


def merge(x: Tensor, how: TimeMerge, patches: int) -> tuple[Merged, Tensor]:
    """Merge tokens [c * M, U * P, C], units' patches side by side, to [c * K, U * P, C]."""
    before = lines(x.float(), how.frames, patches)
    joins = decide(before, how)
    start = mean(joins, before)
    return Merged(joins, before, start), frames(start, x.shape[1] // patches, patches).to(x.dtype)


def restored(merged: Merged, x: Tensor, patches: int) -> Tensor:
    """All frames [c * M, U * P, C] from what those left have become [c * K, U * P, C]."""
    change = lines(x.float(), merged.joins.shape[1], patches) - merged.start
    every = merged.before + merged.joins.transpose(1, 2) @ change
    return frames(every, x.shape[1] // patches, patches).to(x.dtype)


def decide(before: Tensor, how: TimeMerge) -> Tensor:
    """Which units of a place merge: one-hot fp32 [c * U, K, M] of [c * U, M, F]."""
    joins = torch.eye(how.frames).expand(before.shape[0], -1, -1)
    left = before
    for count in range(how.frames, how.keep, -1):
        place = torch.tensor([*range(count)])
        sizes = joins.sum(2)
        both = sizes[:, :-1] * sizes[:, 1:] / (sizes[:, :-1] + sizes[:, 1:])
        closest = spu.best(-apart(left) * both, 1)  # of a pair, its first unit
        target = place - (place > closest).to(torch.int64)
        joins = (target[:, None, :] == place[:-1, None]).float() @ joins
        left = mean(joins, before)
    return joins


def apart(units: Tensor) -> Tensor:
    """Squared distance of normed neighbours, fp32 [n, K, F] to [n, K - 1]; 0 where they are equal but for grain."""
    unit = torch.nn.functional.normalize(units, dim=-1)
    squared = (unit[:, :-1] - unit[:, 1:]).square().sum(-1)
    quiet = (QUIET * squared.amax(1, keepdim=True)).clamp_min(STILL)
    return torch.where(squared < quiet, 0.0, squared)


def mean(joins: Tensor, values: Tensor) -> Tensor:
    """Means of what joins: one-hot [n, K, M] and values [n, M, F] to [n, K, F]."""
    return joins @ values / joins.sum(2, keepdim=True)


def lines(x: Tensor, count: int, patches: int) -> Tensor:
    """Tokens of ``count`` frames a clip as places through time: [c * count, U * P, C] to [c * U, count, P * C]."""
    units, width = x.shape[1] // patches, patches * x.shape[2]
    return x.reshape(-1, count, units, width).transpose(1, 2).reshape(-1, count, width)


def frames(places: Tensor, units: int, patches: int) -> Tensor:
    """The way back of ``lines``: [c * U, count, P * C] to [c * count, U * P, C]."""
    count, width = places.shape[1:]
    return places.reshape(-1, units, count, width).transpose(1, 2).reshape(-1, units * patches, width // patches)
