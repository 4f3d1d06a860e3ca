"""Hugging Face's image processor of every family, for the tiny models' picture sizes."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from unittest import mock

import torch
from family_checkpoints import find
from PIL import Image
from torch.nn import functional


class Torchvision:
    """What LFM2-VL's processor takes from torchvision, which does not load beside a torch for CPUs alone.

    ``resize`` is torchvision's where torch resizes no bytes: in fp32, then rounded.
    """

    InterpolationMode = mock.MagicMock()

    @staticmethod
    def resize(image: torch.Tensor, size: tuple[int, int], antialias: bool, **_: Any) -> torch.Tensor:
        images = image.reshape(-1, *image.shape[-3:]).float()
        resized = functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=antialias)
        return resized.round().to(image.dtype).reshape(*image.shape[:-2], *size)

    @staticmethod
    def normalize(image: torch.Tensor, mean: Any, std: Any, **_: Any) -> torch.Tensor:
        average, spread = (torch.as_tensor(values)[:, None, None] for values in (mean, std))
        return (image - average) / spread


def lfm2_vl_processor(**settings: Any) -> Any:
    """LFM2-VL's image processor as it is in transformers."""
    backends = importlib.import_module("transformers.image_processing_backends")
    names = [f"torchvision{part}" for part in ("", ".transforms", ".transforms.v2", ".transforms.v2.functional")]
    with mock.patch.dict(sys.modules, dict.fromkeys(names, mock.MagicMock())):
        kind = importlib.import_module("transformers.models.lfm2_vl.image_processing_lfm2_vl").Lfm2VlImageProcessor
    kinds = dict.fromkeys(Image.Resampling, None)
    for name, stand_in in (("tvF", Torchvision), ("pil_torch_interpolation_mapping", kinds)):
        if getattr(backends, name, None) is None:
            setattr(backends, name, stand_in)
    return kind(**settings)


class Lfm2VlPictures:
    """Stands for LFM2-VL's image processor, which needs torchvision; it cuts where its arithmetic has a tile size.

    The whole picture beside tiles is as large as one.
    """

    downsample_factor, encoder_patch_size, use_thumbnail = 2, 8, True

    def __init__(self, arithmetic: Any) -> None:
        self.arithmetic, self.tile_size = arithmetic, getattr(arithmetic, "tile_size", 512)
        self.cuts = hasattr(arithmetic, "tile_size")

    def fetch_images(self, images: Any) -> Any:
        return images

    def __call__(self, images: Any, **_: Any) -> dict[str, Any]:
        flat = [one for some in images for one in some]
        if self.cuts:
            return self._cut(flat)
        sizes = [(one.shape[0], one.shape[1]) if hasattr(one, "shape") else one.size[::-1] for one in flat]
        whole = {"image_rows": [1] * len(flat), "image_cols": [1] * len(flat), "image_sizes": sizes}
        return {**self.arithmetic(flat, return_tensors="pt"), **whole}

    def _cut(self, pictures: list[Any]) -> dict[str, Any]:
        side, shown, grids = self.tile_size, list[Any](), list[tuple[int, int]]()
        for picture in map(Image.fromarray, pictures):
            layout = lfm2_vl_processor()._get_grid_layout(picture.height, picture.width, 2, 10, side)
            columns, rows, width, height, _ = layout
            canvas = picture.resize((width, height), Image.Resampling.BILINEAR)
            corners = [(side * column, side * row) for row in range(rows) for column in range(columns)]
            shown += [canvas.crop((x, y, x + side, y + side)) for x, y in corners]
            shown.append(picture.resize((side, side), Image.Resampling.BILINEAR))
            grids.append((rows, columns))
        rows, columns = map(list, zip(*grids, strict=True))
        sizes = [(side, side)] * len(grids)
        laid_out = {"image_rows": rows, "image_cols": columns, "image_sizes": sizes}
        return {**self.arithmetic(shown, return_tensors="pt"), **laid_out}


class Still:
    """Stands for processors of what is not asked about: for videos transformers has them with torchvision alone."""

    temporal_patch_size, merge_size, num_frames, fps = 2, 2, None, None


def still(kind: type[Any]) -> type[Any]:
    """``kind`` without the checks of those."""

    def check(self: Any, name: str, part: Any) -> Any:
        return (
            None
            if name in ("video_processor", "feature_extractor") or isinstance(part, Lfm2VlPictures)
            else kind.check_argument_for_proper_class(self, name, part)
        )

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__init__": kind.__init__})


def beside_pillow(module: str, kind: str) -> Any:
    """The processor class ``kind``, whose module asks one of torchvision for what the one of Pillow has too."""
    models = f"transformers.models.{module}"
    pillow = importlib.import_module(f"{models}.image_processing_pil_{module}")
    with mock.patch.dict(sys.modules, {f"{models}.image_processing_{module}": pillow}):
        return getattr(importlib.import_module(f"{models}.processing_{module}"), kind)


def image_processor(name: str, **changes: Any) -> Any:
    """Without torchvision transformers works on PIL images; so does this test, whatever is installed."""
    written = find(name)
    module = written.images
    implementation = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    classes = [
        value
        for key, value in vars(implementation).items()
        if key.lower().replace("_", "") == f"{module.replace('_', '')}imageprocessorpil"
    ]
    return classes[0](**dict(written.settings) | changes)
