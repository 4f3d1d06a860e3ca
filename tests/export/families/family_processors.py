"""Hugging Face's image processor of every family, for the tiny models' picture sizes."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch.nn import functional

#: Processor module, and what the checkpoints of the family say otherwise than its class.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "fast_vlm": (
        "clip",
        {"do_resize": False, "do_center_crop": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3},
    ),
    "gemma3": ("gemma3", {"size": {"height": 64, "width": 64}}),
    "gemma4": ("gemma4", {"patch_size": 4, "max_soft_tokens": 70, "do_resize": False}),
    "idefics3": (
        "idefics3",
        {"do_image_splitting": False, "size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}},
    ),
    "internvl": (
        "got_ocr2",
        {
            "crop_to_patches": False,
            "size": {"height": 64, "width": 64},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "lfm2_vl": ("siglip2", {"patch_size": 8, "do_resize": False}),
    "llava": ("llava", {"size": {"shortest_edge": 60}, "crop_size": {"height": 60, "width": 60}}),
    "llava_next": (
        "llava_next",
        {
            "size": {"shortest_edge": 60},
            "crop_size": {"height": 60, "width": 60},
            "image_grid_pinpoints": [[60, 60], [60, 120], [120, 60]],
        },
    ),
    "llava_onevision": (
        "llava_onevision",
        {
            "size": {"height": 64, "width": 64},
            "image_grid_pinpoints": [[64, 64], [64, 128], [128, 64]],
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    ),
    "paligemma": ("siglip", {"size": {"height": 48, "width": 48}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "mistral3": ("pixtral", {"patch_size": 8, "size": {"longest_edge": 256}}),
    "paddleocr_vl": ("paddleocr_vl", {"patch_size": 8, "size": {"shortest_edge": 256, "longest_edge": 2**20}}),
    "qwen2_5_vl": ("qwen2_vl", {}),
    "qwen2_vl": ("qwen2_vl", {}),
    "qwen3_5": ("qwen2_vl", {"patch_size": 8, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "qwen3_vl": ("qwen2_vl", {"patch_size": 8, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "smolvlm": (
        "smolvlm",
        {"do_image_splitting": False, "size": {"longest_edge": 100}, "max_image_size": {"longest_edge": 100}},
    ),
}


def sized(name: str, side: int) -> dict[str, Any]:
    """What makes the processor of a family of one size make images of ``side``."""
    if name in ("idefics3", "smolvlm"):
        return {"size": {"longest_edge": side}, "max_image_size": {"longest_edge": side}}
    square = {"height": side, "width": side}
    return (
        {"size": {"shortest_edge": side}, "crop_size": square} if name in ("llava", "llava_next") else {"size": square}
    )


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


def image_processor(name: str, **changes: Any) -> Any:
    """Without torchvision transformers works on PIL images; so does this test, whatever is installed."""
    module, options = PROCESSORS[name]
    implementation = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    classes = [
        value
        for key, value in vars(implementation).items()
        if key.lower() == f"{module.replace('_', '')}imageprocessorpil"
    ]
    return classes[0](**options | changes)
