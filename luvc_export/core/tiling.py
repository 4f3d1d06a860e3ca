"""How a picture or a video becomes images of a fixed size, and what the prompt holds for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How a family's processor chooses among grids of tiles, see ``runtime.media.tile_selection``.
TilingRule = Literal["best_resolution", "closest_ratio", "longest_edge", "closest_ratio_of_large"]


@dataclass(frozen=True)
class Tiling:
    """One way to make images of a picture, and what the prompt holds for them.

    Args:
        written: What stands for the picture in the prompt: text, in which ``{number}`` is the picture's own in its
            prompt from 0 on, and ids. The image token's id stands once per image; an id beyond the tokenizer is a
            vector of the model's own, such as LLaVA-OneVision's newline.
        tiles: Rows and columns of tiles, each an image of ``ImageInput.size``.
        whole: Where the whole picture, as small as one tile, stands: nowhere, before the tiles or after them.
        mosaic: The tiles' units are one grid, and as many text tokens as it has rows follow: one ends each row.
        used: For every picture, for the only one of a prompt, or where a prompt has several.
        row_ends: Of a mosaic whose size decides how many rows there are: what ends each row but the last, what ends the
            last and, if anything, what follows it, each an id or a text that is one token; ``written`` ends with the
            images.
        canvas: Ids of marks that share positions with the picture they stand beside (``token_layout.Canvas``).
    """

    written: tuple[str | int, ...]
    tiles: tuple[int, int] = (1, 1)
    whole: Literal["none", "first", "last"] = "none"
    mosaic: bool = False
    used: Literal["always", "alone", "together"] = "always"
    row_ends: tuple[str | int, ...] | None = None
    canvas: tuple[int, ...] = ()

    def spelled(self, rows: int, number: int = 0) -> tuple[str | int, ...]:
        """``written`` of picture ``number`` with the ends of the rows of units, where an image has ``rows`` of them."""
        written = (part.replace("{number}", str(number)) if isinstance(part, str) else part for part in self.written)
        if self.row_ends is None:
            return tuple(written)
        between, *last = self.row_ends
        return (*written, *[between] * (self.tiles[0] * rows - 1), *last)

    @property
    def images(self) -> int:
        """How many images it makes."""
        return self.tiles[0] * self.tiles[1] + (self.whole != "none")


@dataclass(frozen=True)
class Prefix:
    """Of a model that sees its whole prompt both ways, answers alone being causal: what its processor writes.

    Args:
        after_pictures: Stands after the last picture.
        at_end: Ends the prompt.
    """

    after_pictures: str
    at_end: str


@dataclass(frozen=True)
class Video:
    """How the frames of a video become images, and what the prompt holds for them.

    Args:
        marker: What the chat template writes for a video.
        frames: Frames in one image.
        written: What stands for one image: text, in which ``{seconds}`` is the middle of its time, ``{clock}`` when it
            begins in whole minutes and seconds and ``{number}`` its own from 1 on; and the image token's id.
        step: Time positions (M-RoPE) from image to image, or each second; None lays images out like pictures.
        step_of: What ``step`` counts.
        opening: Stands before the first image; ``{count}`` is how many there are in words, ``{duration}`` how long the
            video is, in hours, minutes and seconds.
        between: Stands between two images.
        closing: Stands behind the last image: text, or an id beyond the tokenizer, as in ``Tiling.written``.
        pooled: Units (rows, columns) of one image where the model pools frames and not pictures: a plan is for either.
        template: The chat template of chats with a video, where the processor takes another one for them.
        tokens: Most visual tokens of an image where nobody names a ceiling and the bundle has a size below this one.
    """

    marker: str
    frames: int
    written: tuple[str | int, ...]
    step: float | None = None
    step_of: Literal["image", "second"] = "image"
    opening: str = ""
    between: str = ""
    closing: str | int = ""
    pooled: tuple[int, int] | None = None
    template: str | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class ClipImages:
    """Images that are the moments of one video: the first one's index, how many, and seconds from one to the next."""

    first: int
    images: int
    seconds: float
