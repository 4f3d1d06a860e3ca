"""Seeded pictures of coloured digits.

A picture is 252 x 336 pixels (height x width): 3 rows and 4 columns of cells of 84 pixels. Every one of the ten digits
appears at most once; some colours appear once, others two or three times. With one visual token per 28 x 28 pixels a
picture is 9 x 12 = 108 visual tokens, and a digit covers two to four of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from luvc_export.errors import MachineError, UsageError, did_you_mean

ROWS, COLUMNS, CELL, TOKEN = 3, 4, 84, 28
HEIGHT, WIDTH = ROWS * CELL, COLUMNS * CELL
GRID = (HEIGHT // TOKEN, WIDTH // TOKEN)
COLOURS = {
    "red": (220, 30, 30),
    "green": (20, 150, 40),
    "blue": (30, 60, 220),
    "black": (20, 20, 20),
    "purple": (160, 30, 190),
    "orange": (240, 140, 10),
    "cyan": (0, 180, 200),
    "brown": (120, 70, 20),
    "pink": (255, 120, 170),
}
NAMES = tuple(COLOURS)
SPLITS = {"train": 1, "heldout": 2, "harder": 3}
GROUPS = ((2,), (3,), (2, 2), (2, 3))  # how many digits share each repeated colour
FONTS = {
    "train": (
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
        "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10",
        "cmss10", "cmb10",
    ),
    "harder": ("pillow", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "STIXGeneralBolIta", "cmtt10"),
}  # fmt: skip
SIZES = {"train": tuple(range(34, 49, 2)), "harder": (28, 30, 54, 58)}  # font sizes in pixels


@dataclass(frozen=True)
class Mark:
    """One digit of a picture: its value, colour name, cell (from 0) and the top left pixel of its glyph."""

    digit: int
    colour: str
    row: int
    column: int
    font: str
    size: int
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `owner[9, 12]` is the index into `marks` of the digit a visual token shows, or -1."""

    marks: tuple[Mark, ...]
    owner: NDArray[np.int64]

    def at(self, row: int, column: int) -> Mark | None:
        """Return the digit in a cell, or None when the cell holds none (outside the grid too)."""
        return next((m for m in self.marks if (m.row, m.column) == (row, column)), None)

    def unique(self) -> list[Mark]:
        """Return the digits whose colour no other digit of the picture has."""
        seen = [m.colour for m in self.marks]
        return [m for m in self.marks if seen.count(m.colour) == 1]


def generator(split: str, *key: int) -> np.random.Generator:
    """Return the generator of a split (train, heldout, harder) and an integer key; no two splits share a stream.

    Raises:
        UsageError: There is no split of that name.
    """
    if split not in SPLITS:
        raise UsageError("unknown split", where="glyph task", got=repr(split), expected=did_you_mean(split, SPLITS))
    return np.random.default_rng([SPLITS[split], *key])


@cache
def font_folder() -> Path:
    """Return the folder of the fonts that come with matplotlib, without importing it.

    Raises:
        MachineError: matplotlib is not installed.
    """
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise MachineError(
            "the pictures are drawn with fonts that come with matplotlib",
            got="no module matplotlib",
            fix="pip install 'luvc-export[report]'",
        )
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@cache
def glyph(font: str, size: int, digit: int) -> NDArray[np.float32]:
    """Return the ink of a digit, float32 [h, w] in 0..1, cropped to its bounding box."""
    face: Any = (
        ImageFont.load_default(size) if font == "pillow" else ImageFont.truetype(font_folder() / f"{font}.ttf", size)
    )
    canvas = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(canvas).text((size // 2, size // 4), str(digit), fill=255, font=face)
    return np.asarray(canvas.crop(canvas.getbbox()), dtype=np.float32) / np.float32(255)


@cache
def noise_field() -> NDArray[np.float32]:
    """Return a fixed field of standard normal noise, float32 [600, 700, 3]; pictures take windows of it."""
    return np.random.default_rng(0).standard_normal((600, 700, 3)).astype(np.float32)


def lay_out(rng: np.random.Generator, split: str) -> tuple[Mark, ...]:
    """Draw nine or ten digits with their colours, fonts, sizes and places."""
    style = "harder" if split == "harder" else "train"
    count = int(rng.integers(9, 11))
    groups = GROUPS[rng.integers(len(GROUPS))]
    colours = [c for c, n in enumerate((*groups, *[1] * (count - sum(groups)))) for _ in range(n)]
    names, digits = rng.permutation(len(NAMES)), rng.permutation(10)[:count]
    cells, order = rng.permutation(ROWS * COLUMNS)[:count], rng.permutation(count)
    marks = []
    for i in range(count):
        font, size = FONTS[style][rng.integers(len(FONTS[style]))], int(rng.choice(SIZES[style]))
        row, column = divmod(int(cells[i]), COLUMNS)
        h, w = glyph(font, size, int(digits[i])).shape
        x = column * CELL + int(rng.integers(6, CELL - w - 5))
        y = row * CELL + int(rng.integers(6, CELL - h - 5))
        marks.append(Mark(int(digits[i]), NAMES[names[colours[order[i]]]], row, column, font, size, x, y))
    return tuple(sorted(marks, key=lambda m: (m.row, m.column)))


def token_owner(marks: tuple[Mark, ...], least: int = 25) -> NDArray[np.int64]:
    """Return int64 [9, 12]: which digit has the most ink in each visual token, -1 below `least` pixels of ink."""
    ink = np.zeros((len(marks), *GRID))
    for i, mark in enumerate(marks):
        mask = glyph(mark.font, mark.size, mark.digit) > 0.5
        ys, xs = np.nonzero(mask)
        np.add.at(ink[i], ((ys + mark.y) // TOKEN, (xs + mark.x) // TOKEN), 1)
    return np.where(ink.max(0) >= least, ink.argmax(0), -1)


def background(rng: np.random.Generator, hard: bool) -> NDArray[np.float32]:
    """Return a pale, noisy background with a gradient, float32 [252, 336, 3] in 0..255."""
    corners = rng.integers(175 if hard else 190, 256, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * np.linspace(-1, 1, WIDTH)[None] + np.sin(angle) * np.linspace(-1, 1, HEIGHT)[:, None]
    ramp = ((ramp + 1.42) / 2.84).astype(np.float32)[..., None]
    top, left = rng.integers(600 - HEIGHT), rng.integers(700 - WIDTH)
    sigma = np.float32(rng.uniform(2, 12 if hard else 9))
    noise = noise_field()[top : top + HEIGHT, left : left + WIDTH]
    field: NDArray[np.float32] = corners[0] * (1 - ramp) + corners[1] * ramp + sigma * noise
    return field


def distract(rng: np.random.Generator, draw: ImageDraw.ImageDraw, marks: tuple[Mark, ...], hard: bool) -> None:
    """Draw what no question asks about: pale lines, specks, and coloured shapes in some of the empty cells."""
    for _ in range(rng.integers(0, 6 if hard else 4)):
        line = [int(v) for v in rng.integers(0, (WIDTH, HEIGHT, WIDTH, HEIGHT))]
        draw.line(line, fill=tuple(int(v) for v in rng.integers(140, 215, 3)), width=1)
    for _ in range(rng.integers(0, 10)):
        x, y, r = int(rng.integers(4, WIDTH - 8)), int(rng.integers(4, HEIGHT - 8)), int(rng.integers(1, 3))
        draw.ellipse([x, y, x + r, y + r], fill=tuple(int(v) for v in rng.integers(0, 200, 3)))
    full = {(m.row, m.column) for m in marks}
    for row, column in ((r, c) for r in range(ROWS) for c in range(COLUMNS) if (r, c) not in full):
        colour, side = COLOURS[NAMES[rng.integers(len(NAMES))]], int(rng.integers(14, 34))
        x, y = column * CELL + int(rng.integers(8, CELL - side - 8)), row * CELL + int(rng.integers(8, CELL - side - 8))
        box, shape = [x, y, x + side, y + side], rng.integers(4)
        if shape == 0:
            draw.ellipse(box, fill=colour)
        elif shape == 1:
            draw.rectangle(box, outline=colour, width=4)
        elif shape == 2:
            draw.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=colour)


def render(rng: np.random.Generator, split: str) -> tuple[NDArray[np.uint8], Scene]:
    """Return (uint8 picture [252, 336, 3], what it shows). The same generator state gives the same picture."""
    marks = lay_out(rng, split)
    hard = split == "harder"
    image = Image.fromarray(background(rng, hard).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    distract(rng, draw, marks, hard)
    draw.rectangle([0, 0, WIDTH - 1, HEIGHT - 1], outline=tuple(int(v) for v in rng.integers(20, 110, 3)), width=3)
    return imprint(rng, np.array(image), marks), Scene(marks, token_owner(marks))


def imprint(rng: np.random.Generator, pixels: NDArray[np.uint8], marks: tuple[Mark, ...]) -> NDArray[np.uint8]:
    """Print the digits on uint8 [252, 336, 3], which is changed and returned, each in a shade of its colour."""
    for mark in marks:
        ink = glyph(mark.font, mark.size, mark.digit)[..., None]
        shade = np.clip(np.array(COLOURS[mark.colour]) + rng.integers(-12, 13, 3), 0, 255)
        window = pixels[mark.y : mark.y + ink.shape[0], mark.x : mark.x + ink.shape[1]]
        window[:] = (window * (1 - ink) + shade * ink).astype(np.uint8)
    return pixels
