"""A picture -> the ``image`` input of the vision graph, by the bundle's size and fit rule.

Rescaling, normalising and patchifying are inside the graph, so what goes in is plain uint8 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luvc_export.bundle.manifest import ImageInput
from luvc_export.core.tiling import Tiling, TilingRule
from luvc_export.errors import BundleError, did_you_mean
from luvc_export.runtime.media.padding import Box
from luvc_export.runtime.media.pictures import Opened, Picture, open_picture, picture_size


@dataclass(frozen=True)
class Placement:
    """Where the upright picture of ``size`` (width, height) lies on the canvas.

    ``box`` is (left, top, right, bottom) in canvas pixels; with fit ``crop`` it reaches beyond the canvas.
    """

    size: tuple[int, int]
    box: Box

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the canvas to pixels of the upright picture."""
        left, top, right, bottom = self.box
        return (x - left) * self.size[0] / (right - left), (y - top) * self.size[1] / (bottom - top)

    def seen_from(self, x: int, y: int, across: int, down: int) -> Placement:
        """The same on a part of the canvas that begins at (x, y) and is ``across`` and ``down`` times smaller."""
        left, top, right, bottom = self.box
        return Placement(self.size, ((left - x) / across, (top - y) / down, (right - x) / across, (bottom - y) / down))


@dataclass(frozen=True)
class Prepared:
    """``pixels`` uint8 [F, H, W, 3] for the vision graph, and where the picture lies on them.

    ``placement`` is that of the first frame, ``boxes`` say where the picture of every frame lies.
    """

    pixels: NDArray[np.uint8]
    placement: Placement
    boxes: tuple[Box, ...]


def preprocess(source: Picture, spec: ImageInput) -> Prepared:
    """Open ``source`` and fit it to ``spec``. A picture that already has the size passes unchanged.

    Fit rules: ``pad`` keeps the aspect ratio and centres the picture on ``pad_colour``; ``stretch`` does not keep it;
    ``crop`` keeps it, covers the canvas and cuts what is left over equally on both sides.

    Raises:
        UsageError: The source is no picture (see ``open_picture``).
        BundleError: The bundle names a resampling filter that Pillow does not have.
    """
    return tile_picture(open_picture(source), spec)[0]


def tile_picture(
    picture: Opened, spec: ImageInput, cut: Tiling | None = None, rule: TilingRule = "best_resolution"
) -> list[Prepared]:
    """The images of an upright RGB ``picture``, in the order in which the prompt names them.

    Tiles are cut from one canvas as large as all of them; the whole picture is that canvas made small, or where
    pictures are stretched the picture itself, as processors make it but Idefics3's (``longest_edge``). A still picture
    fills all frames of an image.
    """
    tiles, whole = (cut.tiles, cut.whole) if cut else ((1, 1), "none")
    height, width = spec.size
    canvas, placement = _fit(picture, replace(spec, size=(tiles[0] * height, tiles[1] * width)))
    prepared = []
    for row in range(tiles[0]):
        for column in range(tiles[1]):
            x, y = column * width, row * height
            tile = canvas.crop((x, y, x + width, y + height)) if tiles != (1, 1) else canvas
            prepared.append(_still(tile, placement.seen_from(x, y, 1, 1), spec))
    if whole != "none":
        source = picture if spec.fit == "stretch" and rule != "longest_edge" else canvas
        small = source.resize((width, height), _filter(spec.resample)) if tiles != (1, 1) else canvas
        seen = _still(small, placement.seen_from(0, 0, tiles[1], tiles[0]), spec)
        prepared.insert(0 if whole == "first" else len(prepared), seen)
    return prepared


def fill_images(frames: Sequence[Opened], spec: ImageInput) -> list[Prepared]:
    """Upright RGB frames of a video, ``spec.frames`` to an image; the last one is repeated to fill the last image."""
    fitted = [_fit(frame, spec) for frame in frames]
    fitted += [fitted[-1]] * (-len(fitted) % spec.frames)
    groups = [fitted[begin : begin + spec.frames] for begin in range(0, len(fitted), spec.frames)]
    return [
        Prepared(
            np.stack([np.asarray(image, np.uint8) for image, _ in group]),
            group[0][1],
            tuple(dict.fromkeys(placement.box for _, placement in group)),
        )
        for group in groups
    ]


def _still(image: Image.Image, placement: Placement, spec: ImageInput) -> Prepared:
    pixels = np.asarray(image, dtype=np.uint8)
    return Prepared(np.broadcast_to(pixels, (spec.frames, *pixels.shape)), placement, (placement.box,))


def _fit(picture: Opened, spec: ImageInput) -> tuple[Image.Image, Placement]:
    height, width = spec.size
    own = picture_size(picture)
    if picture.size == (width, height):
        return picture, Placement(own, (0, 0, width, height))
    how = _filter(spec.resample)
    across, down = width / own[0], height / own[1]
    if spec.fit == "stretch":
        return picture.resize((width, height), how), Placement(own, (0, 0, width, height))
    if spec.fit == "crop":
        scale = max(across, down)
        seen = (width / scale, height / scale)
        left, top = (own[0] - seen[0]) / 2, (own[1] - seen[1]) / 2
        edges = (max(left, 0), max(top, 0), min(left + seen[0], own[0]), min(top + seen[1], own[1]))
        share = (picture.width / own[0], picture.height / own[1]) * 2
        source: Any = tuple(edge * part for edge, part in zip(edges, share, strict=True))
        box = (-left * scale, -top * scale, (own[0] - left) * scale, (own[1] - top) * scale)
        return picture.resize((width, height), how, box=source), Placement(own, box)
    scale = min(across, down)
    inner = (max(1, round(own[0] * scale)), max(1, round(own[1] * scale)))
    corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    canvas = Image.new("RGB", (width, height), spec.pad_colour)
    canvas.paste(picture.resize(inner, how) if inner != picture.size else picture, corner)
    return canvas, Placement(own, (*corner, corner[0] + inner[0], corner[1] + inner[1]))


def _filter(name: str) -> Image.Resampling:
    known = {item.name.lower(): item for item in Image.Resampling}
    if name not in known:
        raise BundleError(
            "no such resampling filter", where="luvc.json: image.resample", got=name, expected=did_you_mean(name, known)
        )
    return known[name]
