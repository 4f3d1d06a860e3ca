"""The bundled task's pictures, on its own pale grounds or on busy ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from luvc_export.demo.scene import (
    HEIGHT,
    WIDTH,
    Mark,
    Scene,
    background,
    distract,
    imprint,
    lay_out,
    token_owner,
)

from .grounds import textured
from .photographs import photograph
from .splits import draw_until


def places(marks: tuple[Mark, ...]) -> tuple:
    """Return a picture's layout: which digit stands in which cell."""
    return tuple((m.digit, m.row, m.column) for m in marks)


def lay(rng: np.random.Generator, split: str) -> tuple[Mark, ...]:
    """Draw the digits of a picture whose layout is one of the split's."""
    return draw_until(lambda: lay_out(rng, "train"), places, split)


def render(rng: np.random.Generator, split: str, ground: str) -> tuple[NDArray[np.uint8], Scene]:
    """Return (uint8 picture [252, 336, 3], what it shows) on a plain or a textured ground, or a photograph."""
    marks = lay(rng, split)
    if ground == "textured":
        pixels, _ = textured(rng, marks)
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
    elif ground == "photographs":
        image = Image.fromarray(photograph(rng, marks))
        draw = ImageDraw.Draw(image)
    else:
        image = Image.fromarray(background(rng, hard=False).clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        distract(rng, draw, marks, hard=False)
    draw.rectangle([0, 0, WIDTH - 1, HEIGHT - 1], outline=tuple(int(v) for v in rng.integers(20, 110, 3)), width=3)
    return imprint(rng, np.array(image), marks), Scene(marks, token_owner(marks))
