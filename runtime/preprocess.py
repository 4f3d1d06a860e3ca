"""A picture -> the ``image`` input of the vision graph, by the bundle's size and fit rule.

Rescaling, normalising and patchifying are inside the graph, so what goes in is plain uint8 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luvc_export.errors import BundleError, UsageError, did_you_mean
from luvc_export.manifest import ImageInput
from luvc_export.runtime.pictures import Picture, open_picture


@dataclass(frozen=True)
class Placement:
    """Where the upright picture of ``size`` (width, height) lies on the canvas.

    ``box`` is (left, top, right, bottom) in canvas pixels; with fit ``crop`` it reaches beyond the canvas.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the canvas to pixels of the upright picture."""
        left, top, right, bottom = self.box
        return (x - left) * self.size[0] / (right - left), (y - top) * self.size[1] / (bottom - top)


@dataclass(frozen=True)
class Prepared:
    """``pixels`` uint8 [F, H, W, 3] for the vision graph, and where the picture lies on them."""

    pixels: NDArray[np.uint8]
    placement: Placement


def preprocess(source: Picture, spec: ImageInput) -> Prepared:
    """Open ``source`` and fit it to ``spec``. A picture that already has the size passes unchanged.

    Fit rules: ``pad`` keeps the aspect ratio and centres the picture on ``pad_colour``; ``stretch`` does not keep it;
    ``crop`` keeps it, covers the canvas and cuts what is left over equally on both sides.

    Raises:
        UsageError: The source is no picture (see ``open_picture``), or the bundle wants several frames an image.
        BundleError: The bundle names a resampling filter that Pillow does not have.
    """
    if spec.frames != 1:
        raise UsageError(
            "this bundle takes videos, which the runtime cannot prepare yet",
            where="luvc.json: image.frames",
            got=spec.frames,
            expected=1,
        )
    picture = open_picture(source)
    canvas, placement = _fit(picture, spec)
    return Prepared(np.asarray(canvas, dtype=np.uint8)[None], placement)


def _fit(picture: Image.Image, spec: ImageInput) -> tuple[Image.Image, Placement]:
    height, width = spec.size
    if picture.size == (width, height):
        return picture, Placement(picture.size, (0, 0, width, height))
    how = _filter(spec.resample)
    across, down = width / picture.width, height / picture.height
    if spec.fit == "stretch":
        return picture.resize((width, height), how), Placement(picture.size, (0, 0, width, height))
    if spec.fit == "crop":
        scale = max(across, down)
        seen = (width / scale, height / scale)
        left, top = (picture.width - seen[0]) / 2, (picture.height - seen[1]) / 2
        source = (max(left, 0), max(top, 0), min(left + seen[0], picture.width), min(top + seen[1], picture.height))
        box = (-left * scale, -top * scale, (picture.width - left) * scale, (picture.height - top) * scale)
        return picture.resize((width, height), how, box=source), Placement(picture.size, box)
    scale = min(across, down)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    canvas = Image.new("RGB", (width, height), spec.pad_colour)
    canvas.paste(picture.resize(inner, how) if inner != picture.size else picture, corner)
    return canvas, Placement(picture.size, (*corner, corner[0] + inner[0], corner[1] + inner[1]))


def _filter(name: str) -> Image.Resampling:
    known = {item.name.lower(): item for item in Image.Resampling}
    if name not in known:
        raise BundleError(
            "no such resampling filter", where="luvc.json: image.resample", got=name, expected=did_you_mean(name, known)
        )
    return known[name]
