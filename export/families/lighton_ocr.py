"""LightOnOCR: the tower and the projector of Mistral 3 in front of Qwen3; rows of a picture have no ends."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

from luvc_export.core.tiling import Tiling
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import TEXT_MODELS, Family, ReferencePrompt
from luvc_export.export.families.mistral3 import Mistral3


class LightOnOcr(Mistral3):
    """LightOnOCR 1B and LightOnOCR 2: pages to Markdown."""

    model_type = "lighton_ocr"
    architecture = LightOnOcrForConditionalGeneration
    text_models = TEXT_MODELS

    def blocks(self, config: Any) -> int:
        """All."""
        return Family.blocks(self, config)

    def halves_of_vision(self, inner: Any) -> tuple[Any, Any]:
        """By its own names."""
        return inner.vision_encoder, inner.vision_projection

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """The image token alone."""
        return Family.cut(self, config, grid)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Every placeholder as often as there are units, the pixels and their sizes."""
        inputs = Family.reference_inputs(self, config, prompt)
        sizes = {"image_sizes": torch.tensor([prompt.pixels.shape[2:4]] * len(prompt.pixels))}
        return inputs | sizes if len(prompt.pixels) else inputs

    def tiny_config(self) -> LightOnOcrConfig:
        """Three blocks, Qwen3 of three layers."""
        return LightOnOcrConfig(
            vision_config=_tiny.vision(model_type="pixtral", head_dim=16, image_size=128, patch_size=8),
            text_config=_tiny.text(model_type="qwen3", head_dim=16),
            image_token_id=250,
        )


FAMILY = LightOnOcr()
