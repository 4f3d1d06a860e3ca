"""Pictures of coloured digits and questions about them, both from a seed.

A picture is a 3x3 grid of nine of the ten digits in nine colours, each once, in fonts that ship with matplotlib. A
question is ``?`` and a key: a digit asks for its colour's letter, a colour's letter for its digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from luvc_export.demo import IMAGE_SIZE
from luvc_export.errors import MachineError, UsageError, did_you_mean

CELLS = 3
COLOURS = {
    "r": (220, 30, 30),
    "g": (20, 150, 40),
    "b": (30, 60, 220),
    "k": (20, 20, 20),
    "m": (190, 30, 190),
    "o": (240, 140, 10),
    "C": (0, 170, 190),
    "N": (120, 70, 20),
    "P": (255, 120, 160),
}
_WORDS = ("red", "green", "blue", "black", "magenta", "orange", "cyan", "brown", "pink")
NAMES = dict(zip(COLOURS, _WORDS, strict=True))

#: First word of the seed sequence of each split; the rehearsal trained on other seeds.
SPLITS = {"heldout": 1, "calibration": 2, "demo": 3}


@dataclass(frozen=True)
class Case:
    """One question about pictures.

    Attributes:
        images: uint8 [H, W, 3] each.
        prompt: The user's text alone.
        answer: What is right.
        kind: Type of question.
        picture: Number of the picture, for statistics clustered by picture.
    """

    images: tuple[NDArray[np.uint8], ...]
    prompt: str
    answer: str
    kind: str
    picture: int


def cases(split: str, count: int, seed: int = 0) -> Iterator[Case]:
    """``count`` questions of ``split``, all eighteen of a picture before the next; the same for the same arguments.

    Raises:
        UsageError: There is no split of that name.
    """
    if split not in SPLITS:
        raise UsageError("unknown split", where="glyph task", got=repr(split), expected=did_you_mean(split, SPLITS))
    done = picture = 0
    while done < count:
        image, labels = render(np.random.default_rng([SPLITS[split], seed, picture]))
        asked = [(f"?{digit}", colour, "colour") for digit, colour in labels]
        asked += [(f"?{colour}", str(digit), "digit") for digit, colour in labels]
        for prompt, answer, kind in asked[: count - done]:
            yield Case((image,), prompt, answer, kind, picture)
            done += 1
        picture += 1


def in_words(case: Case) -> tuple[str, str]:
    """Question and answer of a case as a person would say them."""
    key = case.prompt[1:]
    if case.kind == "colour":
        return f"what colour is the {key}?", NAMES.get(case.answer, case.answer)
    return f"which digit is {NAMES[key]}?", case.answer


def render(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[int, str]]]:
    """A picture uint8 [252, 252, 3] and its nine (digit, colour letter), row by row."""
    paper = rng.integers(200, 256, 3) + rng.normal(0, 6, (*IMAGE_SIZE, 3))
    image = Image.fromarray(np.clip(paper, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    side = IMAGE_SIZE[0] // CELLS
    labels = list(zip(rng.permutation(10)[: CELLS**2].tolist(), rng.permutation(list(COLOURS)).tolist(), strict=True))
    for place, (digit, colour) in enumerate(labels):
        row, column = divmod(place, CELLS)
        size = int(rng.integers(42, 66))
        font = _font(str(rng.choice(_fonts())), size)
        x = column * side + int(rng.integers(4, max(6, int(side - 0.7 * size - 4))))
        y = row * side + int(rng.integers(0, max(1, int(side - 1.15 * size))))
        draw.text((x, y), str(digit), fill=COLOURS[colour], font=font)
    return np.asarray(image), labels


@lru_cache
def _fonts() -> tuple[str, ...]:
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise MachineError(
            "the demo draws with fonts that come with matplotlib",
            got="no module matplotlib",
            fix="pip install 'luvc-export[report]'",
        )
    found = sorted((Path(spec.origin).parent / "mpl-data/fonts/ttf").glob("DejaVuS*.ttf"))
    return tuple(str(path) for path in found if "Display" not in path.name)


@lru_cache(maxsize=512)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
