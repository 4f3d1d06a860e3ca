"""Photographs as a ground, from the wheels of scikit-image and scikit-learn: nothing was trained or chosen on them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luvc_export.demo.scene import HEIGHT, WIDTH, Mark, background
from luvc_export.errors import MachineError

from .grounds import clear

PHOTOGRAPHS = {
    "skimage": tuple(
        f"data/{name}" for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg",
                                    "motorcycle_left.png")
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}  # fmt: skip


@cache
def album() -> tuple[Image.Image, ...]:
    """Return the photographs, RGB.

    Raises:
        MachineError: A package that carries them is not installed.
    """
    pictures = []
    for package, names in PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise MachineError(
                "the photographs come with scikit-image and scikit-learn",
                got=f"no module {package}",
                fix="pip install scikit-image scikit-learn",
            )
        pictures += [Image.open(Path(spec.origin).parent / name).convert("RGB") for name in names]
    return tuple(pictures)


def photograph(rng: np.random.Generator, marks: tuple[Mark, ...]) -> NDArray[np.uint8]:
    """Return a window of a photograph, uint8 [252, 336, 3], turned away from the colours of the digits on it.

    It lies on a pale ground as busy grounds do, at a strength drawn from 0.2 to 0.7: at full strength the models read
    27 and 13 % of the digits themselves, too few to tell plans apart.
    """
    picture = album()[rng.integers(len(album()))]
    scale = max(HEIGHT / picture.height, WIDTH / picture.width) * rng.uniform(1.0, 1.6)
    picture = picture.resize((round(picture.width * scale) + 1, round(picture.height * scale) + 1))
    left, top = (int(rng.integers(0, size + 1)) for size in (picture.width - WIDTH, picture.height - HEIGHT))
    pixels = np.array(picture.crop((left, top, left + WIDTH, top + HEIGHT)))
    strength = rng.uniform(0.2, 0.7)
    pale = background(rng, hard=False)
    pixels = (pale + strength * (pixels[:, :: rng.choice((-1, 1))] - pale)).clip(0, 255).astype(np.uint8)
    for mark in marks:
        clear(pixels, mark)
    return pixels
