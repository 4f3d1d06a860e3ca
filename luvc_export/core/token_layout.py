"""Where every token of a prompt stands: text apart from visual tokens, with order and rotary positions of each.

The graphs take the visual span and the text span separately (see ``graph_io``); this is the one place that says which
positions and which logical order they carry. numpy only: the runtime, the torch side and parity all use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.tiling import Tiling
from luvc_export.errors import UsageError

PositionKind = Literal["mrope", "sequential", "xdrope"]
#: Position axes of each kind.
AXES: Mapping[PositionKind, int] = {"mrope": 3, "sequential": 1, "xdrope": 4}


@dataclass(frozen=True)
class Mosaic:
    """Images that are tiles of one picture: their units form one grid, each row of which ends with a text token.

    ``tiles`` are rows and columns of images; the text tokens, one for each row of units, follow the last tile's
    placeholder. Merged units may share a logical place; then they see each other both ways. ``number`` is the picture's
    own in its conversation, from 0 on, which positions of the kind ``xdrope`` tell.
    """

    tiles: tuple[int, int]
    number: int = 0

    @property
    def images(self) -> int:
        """How many images."""
        return self.tiles[0] * self.tiles[1]


@dataclass(frozen=True)
class Clip:
    """Images that are ``images`` moments of a video, ``step`` apart in time positions (M-RoPE)."""

    images: int
    step: float


@dataclass(frozen=True)
class Canvas:
    """An image whose ``marks`` lie on its canvas (M-RoPE): the token before it, and those right behind it.

    The one before takes the corner outside the first unit, the first one behind it the corner outside the last; what
    follows of ``marks``, such as a line end, stands where the picture begins. So MiniCPM-V 4.7 has them.
    """

    marks: tuple[int, ...]
    images = 1


Block = Mosaic | Clip | Canvas


def block_of(tiling: Tiling, number: int) -> Block | None:
    """How the images of picture ``number`` of a conversation belong together; None where they do not."""
    if tiling.canvas:
        return Canvas(tiling.canvas)
    return Mosaic(tiling.tiles, number) if tiling.mosaic else None


def behind(block: Block | None, token_ids: Sequence[int], place: int, image: int, grid: tuple[int, int]) -> int:
    """How many tokens behind the placeholder at ``place``, the last of a block, belong to the picture."""
    if isinstance(block, Mosaic):
        return block.tiles[0] * grid[0]
    if not isinstance(block, Canvas):
        return 0
    end = place + 1
    while end < len(token_ids) and token_ids[end] in block.marks:
        end += 1
    before_another = place + 1 < end < len(token_ids) and token_ids[end] == image  # the last one is that picture's
    return end - place - 1 - before_another


@dataclass(frozen=True)
class TokenLayout:
    """Decoder inputs of one prompt (batch axis of 1); shapes as in ``graph_io``.

    Attributes:
        next_position: Rotary position of the first token to be generated, on every axis.
        next_order: Its logical place.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.float32]
    visual_position_ids: NDArray[np.float32]
    order: NDArray[np.int64]
    visual_order: NDArray[np.int64]
    next_position: int
    next_order: int


def seen_both_ways(layout: TokenLayout) -> TokenLayout:
    """A prompt whose tokens all see each other: every one has the logical place of the last."""
    order, visual = (np.full_like(part, layout.next_order - 1) for part in (layout.order, layout.visual_order))
    return replace(layout, order=order, visual_order=visual)


def arrange(
    token_ids: list[int],
    image_token_id: int,
    visual_positions: NDArray[np.float32],
    grid: tuple[int, int],
    kind: PositionKind,
    first_position: int = 0,
    first_order: int = 0,
    blocks: Mapping[int, Block] | None = None,
) -> TokenLayout:
    """Lay out a prompt that holds one ``image_token_id`` per image.

    Positions are those of the uncompressed model: ``mrope`` gives a visual token (p, p + row, p + column) and goes on
    at p + max(grid), as transformers' ``get_rope_index``; ``sequential`` gives it p + row * columns + column and goes
    on at p + rows * columns. ``xdrope``, of mosaics, has beside what is ``sequential`` the column, the row and the
    number of the picture, also for the ends of its rows; text has the first on every axis.

    Args:
        token_ids: Prompt with placeholders.
        image_token_id: The placeholder.
        visual_positions: (row, column) pairs of each image's visual tokens, [n, N_0, 2 * copies].
        grid: Units (rows, columns) before merging.
        kind: Rule of the family.
        first_position: Position of the first token (after earlier turns).
        first_order: Logical place of the first token (after earlier turns).
        blocks: Images that belong together, by the index of their first one.

    Raises:
        UsageError: Placeholders and images differ in number, or those of a block stand apart.
    """
    images = len(visual_positions)
    placeholders = sum(token == image_token_id for token in token_ids)
    if placeholders != images:
        raise UsageError(
            "the prompt's image placeholders do not match the images",
            got=f"{placeholders} placeholders, {images} images",
            expected="one placeholder per image",
            fix="pass as many images as the messages mention",
        )
    writer = _LayoutWriter(visual_positions, grid, kind, first_position, first_order)
    index, seen = 0, 0
    while index < len(token_ids):
        if token_ids[index] != image_token_id:
            writer.text(token_ids[index])
            index += 1
            continue
        block = (blocks or {}).get(seen)
        count = block.images if block else 1
        if any(token != image_token_id for token in token_ids[index : index + count]):
            raise UsageError(
                "images that are laid out together do not stand together in the prompt",
                got=f"another token among {count} images",
                expected="their placeholders side by side",
                fix="do not use this bundle; export it again from the checkpoint",
            )
        last = index + count
        ends = token_ids[last : last + behind(block, token_ids, last - 1, image_token_id, grid)]
        if isinstance(block, Mosaic):
            writer.mosaic(seen, block, ends)
        elif isinstance(block, Canvas):
            writer.canvas(seen, ends)
        elif isinstance(block, Clip):
            writer.clip(seen, block)
        else:
            writer.image(seen)
        index, seen = last + len(ends), seen + count
    return writer.layout()


@dataclass
class _LayoutWriter:
    """Writes tokens one after another: where it stands is ``position`` and ``order``."""

    visual_positions: NDArray[np.float32]
    grid: tuple[int, int]
    kind: PositionKind
    position: int
    order: int
    words: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        images, tokens, width = self.visual_positions.shape
        self.copies, self.axes = width // 2, AXES[self.kind]
        self.visual = np.zeros((self.copies, self.axes, images, tokens), np.float32)
        self.visual_order = np.zeros((images, tokens), np.int64)

    def text(self, token: int) -> None:
        self.words.append((token, self.order))
        self.places.append((self.position,) * self.axes)
        self.position, self.order = self.position + 1, self.order + 1

    def image(self, index: int) -> None:
        row, column = self._positions(index)
        rows, columns = self.grid
        if self.kind == "mrope":
            self.visual[:, :, index] = np.stack([np.zeros_like(row), row, column], 1) + self.position
            self.position += max(self.grid)
        else:
            self.visual[:, 0, index] = row * columns + column + self.position
            self.position += rows * columns
        self.visual_order[index] = self.order + np.arange(self.visual_order.shape[1])
        self.order += rows * columns

    def canvas(self, index: int, ends: list[int]) -> None:
        start, (rows, columns) = self.position - len(self.places[-1:]), self.grid
        self.places[-1:] = [(start, *[max(start - 1, 0)] * 2)] * len(self.places[-1:])
        self.position = start
        self.image(index)
        corners = ((start, start + rows, start + columns), *[(start,) * 3] * len(ends))
        for token, corner in zip(ends, corners, strict=False):
            self.words.append((token, self.order))
            self.places.append(corner)
            self.order += 1
        self.position = start + max(self.grid) + 1

    def clip(self, first: int, block: Clip) -> None:
        """All moments share rows and columns; text goes on after the largest position of any axis.

        So Qwen2-VL and Qwen2.5-VL were trained (QwenLM/Qwen3-VL, qwen-vl-finetune, ``rope2d``: "the max vision
        position_ids plus 1", as transformers 5.0 has it). Transformers 5.23 goes on after rows and columns, so the text
        behind a video of more moments shares their positions; see ``export.llm.mrope.place_as_trained``.
        """
        start, later = self.position, 0
        for moment in range(block.images):
            self.position = start
            self.image(first + moment)
            later = int(np.float32(moment) * np.float32(block.step))  # transformers multiplies in float32
            self.visual[:, 0, first + moment] += later
        self.position = max(self.position, start + later + 1)

    def mosaic(self, first: int, block: Mosaic, ends: list[int]) -> None:
        (rows, columns), tiles = self.grid, block.tiles
        wide = tiles[1] * columns + 1
        for index in range(tiles[0] * tiles[1]):
            row, column = self._positions(first + index)
            row, column = row + index // tiles[1] * rows, column + index % tiles[1] * columns
            self.visual[:, 0, first + index] = row * wide + column + self.position
            if self.kind == "xdrope":
                self.visual[:, 1:, first + index] = np.stack([column, row, np.full_like(row, block.number)], 1)
            self.visual_order[first + index] = self.order + np.floor(row[0]) * wide + np.floor(column[0])
        for row_end, token in enumerate(ends, 1):
            self.words.append((token, self.order + row_end * wide - 1))
            at = (self.position + row_end * wide - 1, wide - 1, row_end - 1, block.number)
            self.places.append(at[: self.axes])
        self.position, self.order = self.position + tiles[0] * rows * wide, self.order + tiles[0] * rows * wide

    def _positions(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rows and columns of an image's tokens, each [copies, N_0]."""
        place = self.visual_positions[index].reshape(-1, self.copies, 2)
        return place[:, :, 0].T, place[:, :, 1].T

    def layout(self) -> TokenLayout:
        images, tokens = self.visual_order.shape
        axes = self.copies * self.axes
        ids, orders = (np.array([word[i] for word in self.words], np.int64) for i in range(2))
        places = np.array(self.places, np.float32).reshape(len(ids), self.axes)
        return TokenLayout(
            ids[None],
            np.tile(places.T[:, None], (self.copies, 1, 1)),
            self.visual.reshape(axes, 1, images * tokens),
            orders[None],
            self.visual_order.reshape(1, images * tokens),
            self.position,
            self.order,
        )
