"""LLaVA-NeXT: CLIP or SigLIP tower, every picture cut to tiles whose rows end with a learned newline, 1-D positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from luvc_export.core.tiling import Tiling
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Pixels, ReferencePrompt
from luvc_export.export.families.llava_onevision import LlavaOnevision


class LlavaNext(LlavaOnevision):
    """LLaVA-NeXT (LLaVA 1.6). Its processor cuts each picture, however many a prompt has."""

    model_type = "llava_next"
    architecture = LlavaNextForConditionalGeneration
    limits = ()
    pixels = Pixels()

    def allowed(self, config: Any) -> list[tuple[int, int]]:
        """All of ``image_grid_pinpoints``."""
        return self.pinpoints(config)

    def cuts(self, config: Any, grids: Sequence[tuple[int, int]] = ((1, 1),)) -> tuple[Tiling, ...]:
        """A picture and a newline; or tiles for every picture: the whole, then a newline after each row.

        Raises:
            UsageError: Tiles that transformers does not make.
        """
        tilings = super().cuts(config, grids)
        return tilings if len(tilings) == 1 else tuple(replace(cut, used="always") for cut in tilings[1:])

    def video(self, config: Any) -> None:
        """It was trained on pictures alone."""

    def as_trained(self, model: Any) -> Any:
        """Pictures that are not cut: see ``take_whole_pictures``."""
        return take_whole_pictures(model)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Every picture's images; what they show has the shape of the grid, so transformers finds no margin."""
        inputs = super().reference_inputs(config, replace(prompt, tiles=()))
        inputs.pop("batch_num_images", None)
        if not len(prompt.pixels):
            return inputs
        flat, side = inputs["pixel_values"], torch.tensor(prompt.pixels.shape[2:4])
        counts = [1 + rows * columns for rows, columns in prompt.tiles] or [1] * len(flat)
        most = max(counts)
        parts = [torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])]) for part in flat.split(counts)]
        sizes = torch.stack([side * torch.tensor(grid) for grid in prompt.tiles or [(1, 1)] * len(counts)])
        return {"input_ids": inputs["input_ids"], "pixel_values": torch.stack(parts), "image_sizes": sizes}

    def tiny_config(self) -> LlavaNextConfig:
        """CLIP tower of three blocks read after the second, Llama of three layers."""
        return LlavaNextConfig(
            vision_config=_tiny.vision(model_type="clip_vision_model", image_size=60, patch_size=12),
            text_config=_tiny.text(model_type="llama"),
            image_token_index=250,
            image_grid_pinpoints=[[60, 60], [60, 120], [120, 60]],
        )


def take_whole_pictures(model: Any) -> Any:
    """Let a transformers model take [n, 1, 3, H, W], pictures that are one image each and a newline.

    LLaVA-NeXT's own code does (``prepare_inputs_labels_for_multimodal``, ``image_feature.shape[0] > 1``); transformers
    has the branch in ``pack_image_features`` and no way there: it counts at least two images a picture.
    """
    inner, original = model.model, model.model.get_image_features

    def whole(pixel_values: Tensor, image_sizes: Tensor, *arguments: Any, **named: Any) -> Any:
        if pixel_values.dim() != 5 or pixel_values.shape[1] != 1:
            return original(pixel_values, image_sizes, *arguments, **named)
        side = inner.config.vision_config.image_size
        narrow, inner.config.image_grid_pinpoints = inner.config.image_grid_pinpoints, [[side, side]]
        try:  # each picture twice, as if the second were its one tile
            features = original(pixel_values.expand(-1, 2, -1, -1, -1), image_sizes, *arguments, **named)
        finally:
            inner.config.image_grid_pinpoints = narrow
        patches = (side // inner.config.vision_config.patch_size) ** 2
        features.pooler_output = [
            torch.cat([part[:patches], inner.image_newline[None]]) for part in features.pooler_output
        ]
        return features

    model.model.get_image_features = whole
    return model


FAMILY = LlavaNext()
