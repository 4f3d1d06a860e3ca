"""A picture of compression: which units merged, and which visual tokens survive at each pruning layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP, _CAPTION, _LINE = 12, 22, (255, 255, 255)


def draw(
    canvas: NDArray[np.uint8],
    grid: tuple[int, int],
    merged_into: NDArray[np.int64],
    kept: Mapping[int, NDArray[np.int64]],
    panel: int = 320,
) -> Image.Image:
    """One panel for merging and one per pruning layer, side by side.

    Args:
        canvas: What the model saw, uint8 [H, W, 3].
        grid: Units (rows, columns) before merging.
        merged_into: Visual token of every unit, [rows * columns]; lines are drawn between different tokens.
        kept: Pruning layer -> visual tokens that enter it [keep]; units of the others are dark. A layer that lets
            none in may map to an empty array.
        panel: Width of a panel in pixels.
    """
    height = round(panel * canvas.shape[0] / canvas.shape[1])
    picture = Image.fromarray(canvas).resize((panel, height), Image.Resampling.BICUBIC)
    owner = merged_into.reshape(grid)
    tokens = int(merged_into.max()) + 1
    everyone = np.arange(tokens)
    merged = "merged to" if tokens < owner.size else "unmerged:"
    panels = [(f"{owner.size} units {merged} {tokens}", _panel(picture, owner, everyone))]
    for layer, alive in sorted(kept.items()):
        panels.append((f"into layer {layer}: {len(alive)} of {tokens}", _panel(picture, owner, alive)))
    sheet = Image.new("RGB", (_GAP + (panel + _GAP) * len(panels), height + 2 * _GAP + _CAPTION), (30, 30, 34))
    write = ImageDraw.Draw(sheet)
    for index, (caption, image) in enumerate(panels):
        left = _GAP + index * (panel + _GAP)
        write.text((left, _GAP // 2), caption, fill=_LINE, font=ImageFont.load_default(15))
        sheet.paste(image, (left, _GAP + _CAPTION))
    return sheet


def _panel(picture: Image.Image, owner: NDArray[np.int64], alive: NDArray[np.int64]) -> Image.Image:
    """The picture with the units of dropped tokens darkened and borders between tokens."""
    rows, columns = owner.shape
    width, height = picture.size
    x = np.rint(np.arange(columns + 1) * width / columns).astype(int)
    y = np.rint(np.arange(rows + 1) * height / rows).astype(int)
    row = np.clip(np.searchsorted(y, np.arange(height), side="right") - 1, 0, rows - 1)
    column = np.clip(np.searchsorted(x, np.arange(width), side="right") - 1, 0, columns - 1)
    lives = np.isin(owner, alive)[row][:, column]
    pixels = np.asarray(picture).astype(np.float32)
    grey = pixels.mean(-1, keepdims=True) * 0.22 + 12
    shaded = Image.fromarray(np.where(lives[..., None], pixels, grey).astype(np.uint8))
    draw = ImageDraw.Draw(shaded)
    for i in range(rows):
        for j in range(columns):
            right = j + 1 < columns and owner[i, j] != owner[i, j + 1]
            below = i + 1 < rows and owner[i, j] != owner[i + 1, j]
            if right:
                draw.line([(x[j + 1], y[i]), (x[j + 1], y[i + 1])], fill=_LINE)
            if below:
                draw.line([(x[j], y[i + 1]), (x[j + 1], y[i + 1])], fill=_LINE)
    return shaded
