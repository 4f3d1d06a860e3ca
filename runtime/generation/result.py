"""What ``Session.generate`` gives back: the whole answer, or an iterator over its text."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.runtime.generation.timing import Timings
from luvc_export.runtime.media.preprocess import Placement


@dataclass(frozen=True)
class Selection:
    """What became of the pictures' visual units: enough to draw it.

    Args:
        grid: Units (rows, columns) of a picture before merging; they lie row by row on the canvas.
        merged_into: int64 [n, rows * columns], the visual token each unit became part of; None if the graph is silent.
        kept: For each pruning layer with a budget above 0, int64 [n, keep]: visual tokens that enter it. Where a
            video shares a budget, [videos, keep], counted through its images.
        placements: Where its picture lies on each image's canvas.
        size: Height and width of that canvas: of the bundle's image sizes, the one that was used.
        tiles: Rows and columns of tiles each picture was cut to.
        padding: bool [n, rows, columns], units of each image that show padding alone.
        novel: bool [n, rows, columns], units that neighbours do not foretell; None where the bundle has no buckets.
    """

    grid: tuple[int, int]
    merged_into: NDArray[np.int64] | None
    kept: dict[int, NDArray[np.int64]]
    placements: tuple[Placement, ...]
    size: tuple[int, int]
    tiles: tuple[tuple[int, int], ...]
    padding: NDArray[np.bool_] | None = None
    novel: NDArray[np.bool_] | None = None


def kept_of(groups: NDArray[np.int64], image: int, plan: Plan) -> NDArray[np.int64]:
    """Tokens of one image that a prune keeps, counted in it.

    Args:
        groups: ``Selection.kept`` of a layer: a row per budget, counted through the images that share it.
        image: Which image.
        plan: Of the graphs.
    """
    group, place = divmod(image, plan.sharing.images)
    first = place * plan.vision_tokens
    row = groups[group]
    inside: NDArray[np.int64] = row[(row >= first) & (row < first + plan.vision_tokens)] - first
    return inside


@dataclass(frozen=True)
class Generation:
    """One answer.

    Args:
        text: Without special tokens and without the stop string that ended it.
        token_ids: Every token made, the end token included.
        finish_reason: ``stop`` (end token or stop string) or ``length``.
        timings: Times and sizes.
        visual_tokens: Visual tokens of all pictures in each layer's cache.
        selection: What merging and pruning did to the pictures.
        reused: Tokens of the prompt, an image counting as one, that were in the caches already (``after``).
        past: What the caches hold now, for ``after`` of the next turn.
        backend: What ran the graphs (``Backend.name``).
        arithmetic: What products were computed in (``Backend.arithmetic``).
        logprobs: One for each token, where ``Sampling.logprobs`` asks for them.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    timings: Timings
    visual_tokens: tuple[int, ...]
    selection: Selection = field(compare=False, repr=False)
    reused: int = 0
    past: Any = field(default=None, compare=False, repr=False)
    backend: str = field(default="", compare=False)
    arithmetic: str = field(default="", compare=False)
    logprobs: tuple[TokenLogprob, ...] | None = field(default=None, repr=False)


class Stream:
    """Iterator over the pieces of an answer; they are never empty. ``result`` is the ``Generation`` when it is done."""

    def __init__(self, pieces: Generator[str, None, Generation]) -> None:
        self._pieces = pieces
        self._result: Generation | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as stop:
            self._result = self._result or stop.value
            raise

    def close(self) -> None:
        """Stop generating; there will be no result."""
        self._pieces.close()

    @property
    def result(self) -> Generation:
        """The whole answer.

        Raises:
            UsageError: The stream has not been read to its end.
        """
        if self._result is None:
            raise UsageError("the answer is not complete", where="Stream.result", fix="read the stream to its end")
        return self._result
