"""Held-out cases for `parity` and studies: a film of 16 frames, a question, the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .films import FPS, SIDE, Film
from .questions import cases as numbered

CHECKPOINT = Path(__file__).parent / "checkpoint"
SIZE = (SIDE, SIDE)


@dataclass(frozen=True)
class ClipCase:
    """What an evaluation asks; `video` are frames uint8 [H, W, 3], `picture` the film's number."""

    video: tuple[NDArray[np.uint8], ...]
    prompt: str
    answer: str
    kind: str
    picture: int
    fps: float = FPS
    images: tuple[Any, ...] = ()


def cases(split: str, count: int, seed: int = 0) -> Iterator[ClipCase]:
    """`count` questions about films of a split (heldout, harder, search), three of each."""
    for number, film, question in numbered(split, count, seed):
        yield ClipCase(tuple(film.frames), question.text, question.answer, question.kind, number)


def still(split: str, count: int, seed: int = 0) -> Iterator[ClipCase]:
    """The same questions about one frame, shown 16 times: a random one of the film."""
    for number, film, question in numbered(split, count, seed):
        frame = one_frame(film, np.random.default_rng([seed, number, 1]))
        yield ClipCase((frame,) * len(film.frames), question.text, question.answer, question.kind, number)


def one_frame(film: Film, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A frame of the film."""
    return film.frames[int(rng.integers(len(film.frames)))]
