"""Where every token of a prompt stands: text apart from visual tokens, with order and rotary positions of each.

The graphs take the visual span and the text span separately (see ``contract``); this is the one place that says which
positions and which logical order they carry. numpy only: the runtime, the torch side and parity all use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import UsageError

PositionKind = Literal["mrope", "sequential"]


@dataclass(frozen=True)
class Layout:
    """Decoder inputs of one prompt (batch axis of 1); shapes as in ``contract``.

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


def arrange(
    token_ids: list[int],
    image_token_id: int,
    visual_positions: NDArray[np.float32],
    grid: tuple[int, int],
    kind: PositionKind,
    first_position: int = 0,
    first_order: int = 0,
) -> Layout:
    """Lay out a prompt that holds one ``image_token_id`` per image.

    Positions are those of the uncompressed model: ``mrope`` gives a visual token (p, p + row, p + column) and goes on
    at p + max(grid), as transformers' ``get_rope_index``; ``sequential`` gives it p + row * columns + column and goes
    on at p + rows * columns.

    Args:
        token_ids: Prompt with placeholders.
        image_token_id: The placeholder.
        visual_positions: (row, column) pairs of each image's visual tokens, [n, N_0, 2 * copies].
        grid: Units (rows, columns) before merging.
        kind: Rule of the family.
        first_position: Position of the first token (after earlier turns).
        first_order: Logical place of the first token (after earlier turns).

    Raises:
        UsageError: Placeholders and images differ in number.
    """
    images, tokens, width = visual_positions.shape
    copies, axes = width // 2, 3 if kind == "mrope" else 1
    placeholders = sum(token == image_token_id for token in token_ids)
    if placeholders != images:
        raise UsageError(
            "the prompt's image placeholders do not match the images",
            got=f"{placeholders} placeholders, {images} images",
            expected="one placeholder per image",
            fix="pass as many images as the messages mention",
        )
    position, order = first_position, first_order
    text: list[tuple[int, int, int]] = []
    visual_position = np.zeros((copies, axes, images, tokens), np.float32)
    visual_order = np.zeros((images, tokens), np.int64)
    seen = 0
    for token in token_ids:
        if token != image_token_id:
            text.append((token, position, order))
            position, order = position + 1, order + 1
            continue
        place = visual_positions[seen].reshape(tokens, copies, 2)
        row, column = place[:, :, 0].T, place[:, :, 1].T
        if kind == "mrope":
            visual_position[:, :, seen] = np.stack([np.zeros_like(row), row, column], 1) + position
            position += max(grid)
        else:
            visual_position[:, 0, seen] = row * grid[1] + column + position
            position += grid[0] * grid[1]
        visual_order[seen] = order + np.arange(tokens)
        order += grid[0] * grid[1]
        seen += 1
    ids, positions, orders = (np.array([row[i] for row in text], np.int64) for i in range(3))
    return Layout(
        ids[None],
        np.broadcast_to(positions.astype(np.float32), (copies * axes, 1, len(text))).copy(),
        visual_position.reshape(copies * axes, 1, images * tokens),
        orders[None],
        visual_order.reshape(1, images * tokens),
        position,
        order,
    )
