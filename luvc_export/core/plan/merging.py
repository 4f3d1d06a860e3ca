"""Merge passes of the encoder and the grids between them: what a pass of a plan removes where, in plain numbers.

A pass merges along whole rows and columns, or inside windows: then every window loses the same, those at the edge in
proportion, so that windows stay equal batches and a rectangle of units is left (window-local passes: ours). Of a clip,
units may merge along time instead (``TimeMerge``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, groupby

from luvc_export.core.files import json_records

#: Depth before which no schedule merges or prunes by itself: every source read sees accuracy fall off a cliff there.
EARLIEST = 0.2


@dataclass(frozen=True)
class MergePass(json_records.JsonRecord):
    """One OIM pass after encoder block ``block``: ``columns`` columns, then ``rows`` rows of units disappear.

    With ``window``, units a side, every whole window loses so many, one at the edge in proportion.
    """

    block: int
    rows: int
    columns: int
    window: int = 0


@dataclass(frozen=True)
class Axis:
    """Units along one axis, cut into lines that merge apart: all in one, or the sides of windows.

    Attributes:
        lines: Units of each line, equal ones but for a shorter one at the end.
        whole: Units of a whole window's side; 0 where nothing cuts the axis.
    """

    lines: tuple[int, ...]
    whole: int = 0

    @property
    def units(self) -> int:
        """Units of all lines."""
        return sum(self.lines)

    @property
    def edges(self) -> tuple[int, ...]:
        """Where lines begin, and the end."""
        return tuple(accumulate(self.lines, initial=0))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(Units, lines of so many): two sizes at most where windows cut the axis, however many lines there are."""
        return tuple(Counter(self.lines).items())

    def cut(self, window: int) -> Axis:
        """Into windows, unless they are there."""
        if self.whole or not window:
            return self if window else Axis((self.units,))
        full, rest = divmod(self.units, window)
        return Axis((window,) * full + ((rest,) if rest else ()), window)

    def removed(self, count: int) -> tuple[int, ...]:
        """Units each line loses where a whole one loses ``count``."""
        whole = self.whole or self.units
        return tuple(min(round(count * line / whole), line // 2) if line != whole else count for line in self.lines)

    def after(self, count: int) -> Axis:
        """What is left."""
        lost = self.removed(count)
        kept = (line - gone for line, gone in zip(self.lines, lost, strict=True))
        return Axis(tuple(kept), self.whole - count if self.whole else 0)


@dataclass(frozen=True)
class Box:
    """Equal windows side by side that a pass merges at once: ``down`` x ``across`` of ``height`` x ``width`` units.

    ``top`` and ``left`` are where they begin; ``rows`` and ``columns`` are what each loses.
    """

    top: int
    left: int
    down: int
    across: int
    height: int
    width: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Planned:
    """A pass with the axes (rows, columns) it meets and those it leaves."""

    step: MergePass
    before: tuple[Axis, Axis]
    after: tuple[Axis, Axis]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """What merges at once, row by row: the whole grid, or whole windows and those at the edges."""
        return tuple(
            Box(top, left, down, across, height, width, rows, columns)
            for top, down, height, rows in _runs(self.before[0], self.step.rows)
            for left, across, width, columns in _runs(self.before[1], self.step.columns)
        )


def _runs(axis: Axis, count: int) -> Iterator[tuple[int, int, int, int]]:
    """Equal lines of an axis: (begin, lines, units of each, removed of each)."""
    begin = 0
    for (line, gone), members in groupby(zip(axis.lines, axis.removed(count), strict=True)):
        number = len(list(members))
        yield begin, number, line, gone
        begin += number * line


def whole(grid: tuple[int, int]) -> tuple[Axis, Axis]:
    """The axes of a grid that nothing cuts."""
    return Axis((grid[0],)), Axis((grid[1],))


def planned(grid: tuple[int, int], merges: Sequence[MergePass]) -> tuple[Planned, ...]:
    """Every pass with the grid it meets. A pass along whole axes forgets windows; a first one inside cuts them."""
    passes, axes = [], whole(grid)
    for step in merges:
        before = (axes[0].cut(step.window), axes[1].cut(step.window))
        axes = (before[0].after(step.rows), before[1].after(step.columns))
        passes.append(Planned(step, before, axes))
    return tuple(passes)


def merged_grid(grid: tuple[int, int], merges: Sequence[MergePass]) -> tuple[int, int]:
    """Units (rows, columns) after every pass."""
    passes = planned(grid, merges)
    rows, columns = passes[-1].after if passes else whole(grid)
    return rows.units, columns.units


def problems(grid: tuple[int, int], merges: Sequence[MergePass]) -> list[str]:
    """What of the passes does not fit the grid or the passes before; later ones meet what earlier ones could leave."""
    lines: list[str] = []
    axes, block, window = whole(grid), 0, 0
    for index, step in enumerate(merges):
        where = f"merges[{index}]"
        if step.block < block:
            lines.append(f"{where}: block {step.block} comes after block {block}; blocks must not descend")
        if step.window < 0 or step.window == 1:
            return [*lines, f"{where}: windows of {step.window} units a side; 0 is no windows, the least is 2"]
        if step.window and window and step.window != window:
            return [*lines, f"{where}: windows of {step.window} units a side after windows of {window}"]
        inside = " a window" if step.window else ""
        axes = (axes[0].cut(step.window), axes[1].cut(step.window))
        counts = []
        for name, count, axis in (("columns", step.columns, axes[1]), ("rows", step.rows, axes[0])):
            size = axis.whole or axis.units
            if not 0 <= count <= size // 2:
                lines.append(f"{where}: {count} {name} of {size}{inside}: a pass removes 0 to {size // 2}")
            counts.append(min(max(count, 0), size // 2))
        axes = (axes[0].after(counts[1]), axes[1].after(counts[0]))
        block, window = max(block, step.block), step.window
    return lines


def equal_parts(axes: tuple[Axis, Axis]) -> tuple[tuple[int, int], ...]:
    """(Units, parts of so many) of the windows that two axes cut: at most four entries, whatever the grid."""
    return tuple((high * wide, down * across) for high, down in axes[0].sizes for wide, across in axes[1].sizes)


def at_depth(share: float | Fraction, blocks: int) -> int:
    """The block of an encoder's ``blocks`` after which ``share`` of the depth is done."""
    return max(0, math.ceil(share * blocks) - 1)


def earliest(blocks: int) -> int:
    """First of an encoder's ``blocks`` that a schedule merges or prunes after."""
    return at_depth(EARLIEST, blocks)


def third(blocks: int) -> int:
    """The block after which an encoder prunes unless told (docs/results/encoder.md): a third of the depth."""
    return at_depth(Fraction(1, 3), blocks)


def window_pass(block: int, keep: float, window: int) -> MergePass:
    """The window-local pass after ``block`` that leaves about ``keep`` of a window's units; columns go before rows."""
    sides = [(rows, columns) for rows in range(window // 2 + 1) for columns in range(rows, window // 2 + 1)]
    rows, columns = min(sides, key=lambda gone: abs((window - gone[0]) * (window - gone[1]) / window**2 - keep))
    return MergePass(block, rows, columns, window)


def nested_grid(grid: tuple[int, int], count: int) -> tuple[int, int] | None:
    """The rectangle of ``count`` units inside ``grid`` that shrinks both sides most alike; None if there is none."""
    rows, columns = grid
    fits = [(r, count // r) for r in range(rows, 0, -1) if count % r == 0 and count // r <= columns]
    return min(fits, key=lambda size: abs(size[0] / rows - size[1] / columns)) if fits else None


@dataclass(frozen=True)
class TimeMerge(json_records.JsonRecord):
    """What of a clip's frames (images of two frames each, where the family has it so) goes on after ``block``.

    The most similar neighbours in time at each place become their mean, by size, until a fixed number is left; later
    blocks compute those alone. At the end all come back: what they were when they merged, and what their mean has
    become since, so that the LLM sees the whole clip at its own times. That neighbours in time merge inside the encoder
    is EarlyTom's idea (arXiv 2605.30010), whole frames there; places of their own as OIM's rows, fixed numbers and
    coming back by the change are ours.

    Args:
        block: Encoder block after which units merge.
        frames: Of a clip, as many as share a budget.
        keep: Units that are left of each place's, one of each frame before.
    """

    block: int
    frames: int
    keep: int

    def problems(self) -> list[str]:
        """What of it is wrong by itself, one line each."""
        lines = [f"block: got {self.block}, expected at least 0"] if self.block < 0 else []
        if not 1 <= self.keep < self.frames:
            lines.append(f"keep: got {self.keep} of {self.frames} frames, expected at least 1 and fewer than all")
        return lines
