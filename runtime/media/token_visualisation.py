"""A picture of compression: which units merged, and which visual tokens survive at each pruning layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP, _CAPTION, _LINE = 12, 22, (255, 255, 255)
#: Pixels from one line of a hatched unit to the next.
_HATCH = 7
#: Added to the grey of units in an aggregate.
_MEAN = (0, 40, 70)


def draw(
    canvas: NDArray[np.uint8],
    grid: tuple[int, int],
    merged_into: NDArray[np.int64],
    kept: Mapping[int, NDArray[np.int64]],
    panel: int = 320,
    padding: NDArray[np.bool_] | None = None,
    means: Collection[int] = (),
    foretold: bool = False,
) -> Image.Image:
    """One panel for merging and one per pruning layer, side by side. Units of padding are hatched, and told apart.

    Args:
        canvas: What the model saw, uint8 [H, W, 3].
        grid: Units (rows, columns) before merging.
        merged_into: Visual token of every unit, [rows * columns]; -1 for one that left the encoder, which is dark.
            Lines are drawn between different tokens.
        kept: Pruning layer -> visual tokens that enter it [keep]; units of the others are dark. A layer that lets
            none in may map to an empty array.
        panel: Width of a panel in pixels.
        padding: Units that show padding alone, bool [rows, columns].
        means: Layers into which a row goes that is the mean of those dropped (``Plan.aggregate``): their units are
            tinted in place of dark.
        foretold: Units that left were foretold by their neighbours: a bucket left them out.
    """
    height = round(panel * canvas.shape[0] / canvas.shape[1])
    picture = Image.fromarray(canvas).resize((panel, height), Image.Resampling.BICUBIC)
    owner = merged_into.reshape(grid)
    tokens = int(merged_into.max()) + 1
    everyone = np.arange(tokens)
    void = np.zeros(grid, np.bool_) if padding is None else padding
    empty = np.setdiff1d(everyone, owner[~void])
    merged = "merged to" if tokens < owner.size else "unmerged:"
    merged = f"leave {(owner >= 0).sum()}," if (owner < 0).any() else merged
    headline = f"{tokens} of {owner.size} units computed" if foretold else f"{owner.size} units {merged} {tokens}"
    panels = [(f"{headline}{_told(len(empty))}", shade(picture, owner, everyone, void, False))]
    for layer, alive in sorted(kept.items()):
        caption_of_layer = f"into layer {layer}: {len(alive)} of {tokens}{_told(len(np.intersect1d(alive, empty)))}"
        mean = layer in means
        panels.append((caption_of_layer + " + mean" * mean, shade(picture, owner, alive, void, mean)))
    sheet = Image.new("RGB", (_GAP + (panel + _GAP) * len(panels), height + 2 * _GAP + _CAPTION), (30, 30, 34))
    write = ImageDraw.Draw(sheet)
    for index, (caption, image) in enumerate(panels):
        left = _GAP + index * (panel + _GAP)
        write.text((left, _GAP // 2), caption, fill=_LINE, font=ImageFont.load_default(15))
        sheet.paste(image, (left, _GAP + _CAPTION))
    return sheet


def _told(padding: int) -> str:
    return f", {padding} padding" if padding else ""


def shade(
    picture: Image.Image,
    owner: NDArray[np.int64],
    alive: NDArray[np.int64],
    void: NDArray[np.bool_],
    mean: bool = False,
) -> Image.Image:
    """The picture with the units of dropped tokens darkened, those of padding hatched, borders between tokens.

    Args:
        picture: RGB.
        owner: Token of each unit, [rows, columns].
        alive: Tokens whose units stay as they are.
        void: Units of padding, [rows, columns].
        mean: Units of dropped tokens are tinted instead: they are in the aggregate.
    """
    rows, columns = owner.shape
    width, height = picture.size
    x = np.rint(np.arange(columns + 1) * width / columns).astype(int)
    y = np.rint(np.arange(rows + 1) * height / rows).astype(int)
    row = np.clip(np.searchsorted(y, np.arange(height), side="right") - 1, 0, rows - 1)
    column = np.clip(np.searchsorted(x, np.arange(width), side="right") - 1, 0, columns - 1)
    lives = np.isin(owner, alive)[row][:, column]
    pixels = np.asarray(picture).astype(np.float32)
    grey = pixels.mean(-1, keepdims=True) * 0.22 + 12
    grey = np.where((owner >= 0)[row][:, column][..., None], grey + _MEAN, grey) if mean else grey
    shown = np.where(lives[..., None], pixels, grey)
    hatched = void[row][:, column] & ((np.arange(height)[:, None] + np.arange(width)) % _HATCH < 2)
    shown[hatched] = np.where(lives[hatched][:, None], 0.55 * shown[hatched], shown[hatched] + 50)
    shaded = Image.fromarray(shown.astype(np.uint8))
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
