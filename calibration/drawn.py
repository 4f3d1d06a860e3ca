"""Pictures to calibrate on where a user brings none: pages, photographs' statistics and textures, drawn from a seed.

Ranges of activations want pictures of the kinds that people ask about, not right answers. Pages are words, a table and
bars. Photographs are stood in for by dead leaves (occluding discs whose radii follow r^-3: Lee, Mumford and Huang 2001)
with a 1/f amplitude spectrum inside each (Field 1987), colours along the axes of natural scenes (Ruderman, Cronin and
Chiao 1998). Textures are gratings, checks and dots, which are alike everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: What ``--data`` calls them.
NAME = "drawn"
#: Asked in turns.
PROMPTS = (
    "Describe this picture.",
    "What text can be read in it?",
    "Which colours does it show?",
    "How many things are in it?",
)
#: Height and width in pixels, in turns: square, and as pages, photographs and screens are.
_SIZES = ((448, 448), (640, 448), (448, 640), (360, 640))
_WORDS = (
    *("the", "of", "and", "in", "that", "for", "with", "from", "report", "total", "page", "table", "figure", "note"),
    *("date", "price", "order", "item", "name", "street", "city", "number", "result", "year", "month", "paid", "open"),
    *("closed", "left", "right", "above", "below", "green", "blue", "river", "house", "market", "station", "letter"),
)
#: Radii of discs, smallest and largest, as shares of the shorter side.
_RADII = (0.02, 0.4)
_DISCS = 160
#: Opponent axes of natural scenes (luminance, blue against yellow, red against green), and their falling spread.
_AXES = np.array([[0.577, 0.577, 0.577], [0.408, 0.408, -0.816], [0.707, -0.707, 0.0]], np.float32)
_SPREAD = np.array([52.0, 18.0, 8.0], np.float32)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class DrawnCase:
    """A drawn picture and what is asked about it; nobody knows the right answer (see ``calibration.cases.Case``)."""

    images: tuple[Pixels, ...]
    prompt: str
    kind: str
    picture: int
    answer: str | None = None


def cases(count: int, seed: int = 0) -> Iterator[DrawnCase]:
    """The first ``count`` cases of a seed, each with a picture [H, W, 3] of its own; kinds, sizes and prompts in turns.

    The first cases of more are the same.
    """
    kinds = tuple(_KINDS)
    for number in range(count):
        rng, kind = np.random.default_rng((seed, number)), kinds[number % len(kinds)]
        height, width = _SIZES[number // len(kinds) % len(_SIZES)]
        prompt = PROMPTS[number // 2 % len(PROMPTS)]
        yield DrawnCase((_KINDS[kind](rng, height, width),), prompt, kind, number)


def page(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A page [height, width, 3]: a heading, paragraphs, a table with lines or bars, on near white."""
    ground = tuple(int(value) for value in rng.integers(225, 256, 3))
    ink = tuple(int(value) for value in rng.integers(0, 90, 3))
    image = Image.new("RGB", (width, height), ground)
    draw, margin = ImageDraw.Draw(image), width // 14
    top, size = margin, int(rng.integers(11, 19))
    below = int(height * rng.uniform(0.55, 0.8))

    def line(text: str, at: int, points: int) -> int:
        draw.text((margin, at), text, ink, ImageFont.load_default(points))
        return at + points * 3 // 2

    top = line(" ".join(rng.choice(_WORDS, 3)).title(), top, size * 2)
    while top < below:
        top = line(" ".join(rng.choice(_WORDS, max(2, (width - 2 * margin) // (size * 3)))), top, size)
    rows, columns = int(rng.integers(2, 5)), int(rng.integers(2, 6))
    step, across = max(size + 4, (height - top - margin) // rows), (width - 2 * margin) // columns
    bars = rng.random() < 0.5
    for row in range(rows):
        for column in range(columns):
            left, upper = margin + column * across, top + row * step
            value = int(rng.integers(1, 1000))
            if bars:
                colour = tuple(int(part) for part in rng.integers(30, 230, 3))
                draw.rectangle((left, upper, left + max(1, across * value // 1000), upper + step // 2), colour)
            else:
                draw.rectangle((left, upper, left + across, upper + step), outline=ink)
                draw.text((left + 4, upper + 2), str(value), ink, ImageFont.load_default(size))
    return np.asarray(image)


def photograph(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Pixels [height, width, 3] with the statistics of photographs: occlusion at every scale, 1/f in each surface."""
    image, rows, columns = _surface(rng, height, width), *np.ogrid[:height, :width]
    low, high = (share * min(height, width) for share in _RADII)
    chances = rng.random(_DISCS)
    radii = (low**-2 + chances * (high**-2 - low**-2)) ** -0.5  # density r^-3 between both
    for radius in sorted(radii, reverse=True):
        across = (rows - rng.uniform(0, height)) ** 2 + (columns - rng.uniform(0, width)) ** 2
        inside = across < radius**2
        image[inside] = _surface(rng, height, width)[inside] if radius > 8 * low else _colour(rng)
    return np.clip(image, 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A grating, checks or dots [height, width, 3] of two colours, turned by any angle."""
    rows, columns = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    along = (columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / period
    over = (rows * np.cos(angle) - columns * np.sin(angle)) * 2 * np.pi / period
    waves: tuple[Callable[[], NDArray[np.floating]], ...] = (
        lambda: np.sin(along),
        lambda: np.sign(np.sin(along) * np.sin(over)),
        lambda: np.sign(np.cos(along) + np.cos(over) - rng.uniform(0.2, 1.2)),
    )
    share = (waves[int(rng.integers(len(waves)))]()[..., None] + 1) / 2
    image = share * _colour(rng) + (1 - share) * _colour(rng) + rng.normal(0, rng.uniform(0, 8), (height, width, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


_KINDS: dict[str, Callable[[np.random.Generator, int, int], Pixels]] = {
    "page": page,
    "photograph": photograph,
    "texture": texture,
}


def _colour(rng: np.random.Generator) -> NDArray[np.float32]:
    grey, turned = rng.uniform(30, 220), rng.standard_normal(3, np.float32) * _SPREAD @ _AXES
    return (grey + turned).astype(np.float32)


def _surface(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A colour whose luminance and opponent colours have amplitudes of 1/f, [height, width, 3]."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((3, height, width)))
    waves = np.fft.irfft2(noise / frequency, (height, width))
    waves *= (_SPREAD / np.maximum(waves.std((1, 2)), 1e-6))[:, None, None] / 2
    surface: NDArray[np.float32] = (_colour(rng) + np.moveaxis(waves, 0, -1) @ _AXES).astype(np.float32)
    return surface
