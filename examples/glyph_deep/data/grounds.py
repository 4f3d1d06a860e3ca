"""Procedural grounds as busy as the digits: 1/f noise, stripes, checks, gradients, blobs of the digits' own colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from luvc_export.demo.scene import (
    CELL,
    COLOURS,
    COLUMNS,
    FONTS,
    HEIGHT,
    ROWS,
    WIDTH,
    Mark,
    background,
    font_folder,
    glyph,
)

BANK = 6  # fields of 1/f noise; pictures take turned windows of them
FIELD = 512  # pixels of a field's side
LEAST_CONTRAST = 70.0  # Euclidean distance in RGB that a digit keeps from the mean of the ground under it
LETTERS = "ABEFHKMNRSTWXYZ"

Field = NDArray[np.float32]


@cache
def pink(number: int) -> Field:
    """Return a fixed field of 1/f noise, float32 [512, 512, 3], mean 0, standard deviation 1."""
    rng = np.random.default_rng([91, number])
    slope = rng.uniform(0.6, 1.6)
    radius = np.hypot(np.fft.fftfreq(FIELD)[:, None], np.fft.rfftfreq(FIELD)[None])
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((3, FIELD, FIELD))) / radius**slope
    field = np.fft.irfft2(spectrum)
    field = field + rng.uniform(0.5, 1.5) * field.mean(0)  # the channels move together, as light does
    field = (field - field.mean((1, 2), keepdims=True)) / field.std((1, 2), keepdims=True)
    return field.transpose(1, 2, 0).astype(np.float32)


def noise(rng: np.random.Generator) -> Field:
    """Return 1/f noise, mirrored and cut at random."""
    field = pink(int(rng.integers(BANK)))[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    top, left = rng.integers(FIELD - HEIGHT), rng.integers(FIELD - WIDTH)
    return field[top : top + HEIGHT, left : left + WIDTH, rng.permutation(3)]


def grid() -> tuple[Field, Field]:
    """Return the rows [H, 1] and columns [1, W] of the pixels."""
    return np.arange(HEIGHT, dtype=np.float32)[:, None], np.arange(WIDTH, dtype=np.float32)[None]


def stripes(rng: np.random.Generator) -> Field:
    """Return stripes of a random direction and period, sharp or soft, of two tints."""
    (y, x), angle = grid(), rng.uniform(0, np.pi)
    phase = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / rng.uniform(6, 60)) + rng.uniform(0, 6.3)
    wave = np.tanh(np.sin(phase) * rng.choice((1.0, 6.0))).astype(np.float32)
    return wave[..., None] * tint(rng)


def checks(rng: np.random.Generator) -> Field:
    """Return a checkerboard or a brick pattern."""
    (y, x), size = grid(), rng.uniform(8, 50)
    shift = rng.choice((0.0, 0.5)) * (np.floor(y / size) % 2)
    board = ((np.floor(x / size + shift) + np.floor(y / size)) % 2) * 2 - 1
    return board.astype(np.float32)[..., None] * tint(rng)


def ramps(rng: np.random.Generator) -> Field:
    """Return a steep gradient, straight or round."""
    y, x = grid()
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * (x / WIDTH - 0.5) + np.sin(angle) * (y / HEIGHT - 0.5)
    else:
        ramp = np.hypot(x / WIDTH - rng.random(), y / HEIGHT - rng.random()) - 0.5
    return np.asarray(3.0 * ramp, dtype=np.float32)[..., None] * tint(rng)


def tint(rng: np.random.Generator) -> Field:
    """Return a random colour direction, float32 [3], of root mean square 1."""
    direction = rng.standard_normal(3) * 0.6 + rng.choice((-1, 1))
    return (direction / np.sqrt((direction**2).mean())).astype(np.float32)


PATTERNS: tuple[Callable[[np.random.Generator], Field], ...] = (noise, stripes, checks, ramps)


def clutter(rng: np.random.Generator, draw: ImageDraw.ImageDraw, marks: tuple[Mark, ...], strength: float) -> None:
    """Draw strokes, letters and blobs in the digits' own colours; a blob never lies under a digit of its colour."""
    for _ in range(int(rng.integers(0, 2 + int(18 * strength)))):
        x, y = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        mark = marks[int(rng.integers(len(marks)))]
        radius = int(rng.integers(4, 8 + int(18 * strength)))
        if any(m.colour == mark.colour and near(m, x, y, radius) for m in marks):
            continue
        colour = tuple(int(v) for v in np.clip(np.array(COLOURS[mark.colour]) + rng.integers(-20, 21, 3), 0, 255))
        wide = int(radius * rng.uniform(0.5, 1.6))
        draw.ellipse([x - wide, y - radius, x + wide, y + radius], fill=colour)
    for _ in range(int(rng.integers(0, 2 + int(14 * strength)))):
        x, y, dx, dy = (int(v) for v in (*rng.integers(0, (WIDTH, HEIGHT)), *rng.integers(-60, 61, 2)))
        draw.line(
            [x, y, x + dx, y + dy], fill=tuple(int(v) for v in rng.integers(60, 240, 3)), width=int(rng.integers(1, 4))
        )
    free = sorted({(r, c) for r in range(ROWS) for c in range(COLUMNS)} - {(m.row, m.column) for m in marks})
    for row, column in free:
        if rng.random() < strength:
            letter = LETTERS[rng.integers(len(LETTERS))]
            size, colour = int(rng.integers(30, 48)), list(COLOURS.values())[rng.integers(len(COLOURS))]
            at = (column * CELL + int(rng.integers(8, 34)), row * CELL + int(rng.integers(4, 26)))
            draw.text(at, letter, fill=colour, font=face(FONTS["train"][rng.integers(len(FONTS["train"]))], size))


@cache
def face(font: str, size: int):
    """Return a font of matplotlib's at a size in pixels, or Pillow's own."""
    from PIL import ImageFont

    if font == "pillow":
        return ImageFont.load_default(size)
    return ImageFont.truetype(font_folder() / f"{font}.ttf", size)


def near(mark: Mark, x: int, y: int, radius: int) -> bool:
    """Return whether a blob around (x, y) would touch the digit."""
    h, w = glyph(mark.font, mark.size, mark.digit).shape
    reach = 1.6 * radius
    return mark.x - reach < x < mark.x + w + reach and mark.y - radius < y < mark.y + h + radius


def textured(rng: np.random.Generator, marks: tuple[Mark, ...]) -> tuple[NDArray[np.uint8], float]:
    """Return a busy ground uint8 [252, 336, 3] and its strength, drawn evenly from 0.2 to 1.

    Where the mean of the ground under a digit comes nearer its colour than `LEAST_CONTRAST`, the ground there is moved
    away from it, with a soft edge: what people could not read is not asked.
    """
    strength = float(rng.uniform(0.2, 1.0))
    ground = background(rng, hard=False)
    parts = rng.permutation(len(PATTERNS))[: rng.integers(1, 4)]
    share = rng.dirichlet(np.ones(len(parts)))
    ground = ground - np.float32(rng.uniform(0, 60) * strength)
    for part, weight in zip(parts, share, strict=True):
        ground = ground + np.float32(42 * strength * np.sqrt(weight)) * PATTERNS[part](rng)
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    clutter(rng, ImageDraw.Draw(image), marks, strength)
    pixels = np.array(image)
    for mark in marks:
        clear(pixels, mark)
    return pixels, strength


def clear(pixels: NDArray[np.uint8], mark: Mark) -> None:
    """Move the ground under a digit away from the digit's colour where the two are too near, in place."""
    ink = glyph(mark.font, mark.size, mark.digit)
    h, w = ink.shape
    top, left, pad = mark.y, mark.x, 6
    box = (slice(max(0, top - pad), top + h + pad), slice(max(0, left - pad), left + w + pad))
    window, colour = pixels[box].astype(np.float32), np.array(COLOURS[mark.colour], dtype=np.float32)
    away = window - colour
    distance = np.sqrt((away**2).sum(-1, keepdims=True))
    mean = away.reshape(-1, 3).mean(0)
    if np.sqrt((mean**2).sum()) >= LEAST_CONTRAST and (distance < LEAST_CONTRAST / 2).mean() < 0.15:
        return
    aim = np.float32(235) if colour.mean() < 140 else np.float32(40)
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]) / pad for n in window.shape[:2])
    soft = np.minimum(1, np.minimum(y[:, None], x[None]))[..., None].astype(np.float32) * 0.7
    pixels[box] = (window * (1 - soft) + aim * soft).clip(0, 255).astype(np.uint8)
