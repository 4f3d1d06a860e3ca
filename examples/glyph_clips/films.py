"""Seeded films of coloured digits that come, move and change.

A film is 16 frames of 168 x 168 pixels at 8 frames a second, two for each of its 8 moments, which is what one temporal
patch takes. Four digits of four colours come one after another. One moves a cell to the right, one to the left, one up
or down, one stays. Each becomes another digit 0 to 3 times. With one visual token for 28 x 28 pixels a moment is 6 x 6
tokens, a film 288.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from luvc_export.demo.scene import COLOURS, FONTS, NAMES, SIZES, TOKEN, generator, glyph, noise_field
from luvc_export.errors import UsageError

CELL, CELLS = 56, 3
SIDE = CELL * CELLS
GRID = (SIDE // TOKEN, SIDE // TOKEN)
MOMENTS, FRAMES, FPS = 8, 16, 8.0
LATEST = 4  # the moment at which the last digit may come, so that it can still move and change three times
DIRECTIONS = {"none": (0, 0), "right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}
MOST_CHANGES = 3
SMALLEST = 25  # pixels of ink from which a visual token shows a digit


@dataclass(frozen=True)
class Actor:
    """A digit of a film. `digits` and `steps` (half cells gone, 0 to 2) have one entry for each moment."""

    colour: str
    font: str
    size: int
    cell: tuple[int, int]
    comes: int
    direction: str
    digits: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def changes(self) -> int:
        """How often it became another digit."""
        return sum(a != b for a, b in pairwise(self.digits))

    def place(self, moment: int, ink: NDArray[np.float32]) -> tuple[int, int]:
        """The top left pixel (x, y) of its ink [h, w] at a moment."""
        down, right = DIRECTIONS[self.direction]
        centre_y = self.cell[0] * CELL + CELL // 2 + down * self.steps[moment] * CELL // 2
        centre_x = self.cell[1] * CELL + CELL // 2 + right * self.steps[moment] * CELL // 2
        return centre_x - ink.shape[1] // 2, centre_y - ink.shape[0] // 2


@dataclass(frozen=True)
class Film:
    """Frames uint8 [16, 168, 168, 3] and who is in them; `owner` [8, 6, 6] is the actor a visual token shows, or -1."""

    frames: NDArray[np.uint8]
    actors: tuple[Actor, ...]
    owner: NDArray[np.int64]


def cast(rng: np.random.Generator, split: str) -> tuple[Actor, ...]:
    """Draw four actors, in the order in which they come, on cells that no other one enters."""
    style = "harder" if split == "harder" else "train"
    directions = ["right", "left", str(rng.choice(["up", "down"])), "none"]
    cells = _cells(rng, directions)
    colours = rng.permutation(len(NAMES))[: len(directions)]
    order = rng.permutation(len(directions))
    comes = [0, *sorted(1 + rng.permutation(LATEST)[: len(directions) - 1])]
    first = rng.permutation(10)[: len(directions)]
    actors = []
    for rank, which in enumerate(order):
        begin = int(comes[rank])
        moved = int(rng.integers(begin + 1, MOMENTS - 1))
        changes = sorted(begin + 1 + rng.permutation(MOMENTS - 1 - begin)[: int(rng.integers(MOST_CHANGES + 1))])
        digits, now = [], int(first[which])
        for moment in range(MOMENTS):
            if moment in changes:
                now = (now + int(rng.integers(1, 10))) % 10
            digits.append(now)
        still = directions[which] == "none"
        steps = [0 if still else min(max(moment - moved + 1, 0), 2) for moment in range(MOMENTS)]
        actors.append(
            Actor(
                NAMES[colours[which]],
                FONTS[style][rng.integers(len(FONTS[style]))],
                int(rng.choice(SIZES[style])),
                cells[which],
                begin,
                directions[which],
                tuple(digits),
                tuple(steps),
            )
        )
    return tuple(actors)


def _cells(rng: np.random.Generator, directions: list[str]) -> list[tuple[int, int]]:
    """A cell for each direction such that no cell is entered by two."""
    while True:
        taken, cells = set[tuple[int, int]](), []
        for direction in directions:
            row, column = (int(v) for v in rng.integers(CELLS, size=2))
            down, right = DIRECTIONS[direction]
            path = {(row, column), (row + down, column + right)}
            inside = all(0 <= r < CELLS and 0 <= c < CELLS for r, c in path)
            if not inside or path & taken:
                break
            taken |= path
            cells.append((row, column))
        if len(cells) == len(directions):
            return cells


def film(rng: np.random.Generator, split: str) -> Film:
    """Draw a film. The same generator state gives the same film."""
    actors = cast(rng, split)
    corners = rng.integers(190, 256, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    span = np.linspace(-1, 1, SIDE)
    ramp = ((np.cos(angle) * span[None] + np.sin(angle) * span[:, None] + 1.42) / 2.84).astype(np.float32)[..., None]
    top, left = rng.integers(600 - SIDE), rng.integers(700 - SIDE)
    field = noise_field()[top : top + SIDE, left : left + SIDE]
    ground = corners[0] * (1 - ramp) + corners[1] * ramp + np.float32(rng.uniform(2, 8)) * field
    shades = [np.clip(np.array(COLOURS[a.colour]) + rng.integers(-12, 13, 3), 0, 255) for a in actors]
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    owner = np.full((MOMENTS, *GRID), -1, np.int64)
    for moment in range(MOMENTS):
        inked = np.zeros((len(actors), *GRID))
        picture = ground.copy()
        for index, actor in enumerate(actors):
            if moment < actor.comes:
                continue
            ink = glyph(actor.font, actor.size, actor.digits[moment])
            x, y = actor.place(moment, ink)
            window = picture[y : y + ink.shape[0], x : x + ink.shape[1]]
            window[:] = window * (1 - ink[..., None]) + shades[index] * ink[..., None]
            ys, xs = np.nonzero(ink > 0.5)
            np.add.at(inked[index], ((ys + y) // TOKEN, (xs + x) // TOKEN), 1)
        owner[moment] = np.where(inked.max(0) >= SMALLEST, inked.argmax(0), -1)
        for frame in (2 * moment, 2 * moment + 1):
            grain = noise_field()[frame * 20 : frame * 20 + SIDE, frame * 20 : frame * 20 + SIDE]
            frames[frame] = (picture + np.float32(1.5) * grain).clip(0, 255).astype(np.uint8)
    return Film(frames, actors, owner)


def seeded(split: str, seed: int, number: int) -> Film:
    """Return film `number` of a split (train, heldout, harder, search).

    Raises:
        UsageError: There is no such split.
    """
    if split == "search":
        return film(generator("heldout", 1, seed, number), split)
    if seed < 0 or number < 0:
        raise UsageError("a film has a seed and a number from 0 on", where="glyph clips", got=f"{seed}, {number}")
    return film(generator(split, 0, seed, number), split)
