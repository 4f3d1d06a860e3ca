"""LightOnOCR: the tower and the projector of Mistral 3 in front of Qwen3; rows of a picture have no ends."""

from __future__ import annotations

from typing import Any

from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

from luvc_export.export.families import _tiny
from luvc_export.export.families.base import TEXT_MODELS
from luvc_export.export.families.mistral3 import Mistral3


class LightOnOcr(Mistral3):
    """LightOnOCR 1B and LightOnOCR 2: pages to Markdown."""

    model_type = "lighton_ocr"
    architecture = LightOnOcrForConditionalGeneration
    text_models = TEXT_MODELS
    row_ends = None

    def halves_of_vision(self, inner: Any) -> tuple[Any, Any]:
        """By its own names."""
        return inner.vision_encoder, inner.vision_projection

    def tiny_config(self) -> LightOnOcrConfig:
        """Small halves with every feature of the family."""
        return LightOnOcrConfig(
            vision_config=_tiny.vision(model_type="pixtral", image_size=64, patch_size=8, head_dim=16),
            text_config=_tiny.text(model_type="qwen3", head_dim=16),
            image_token_id=250,
            spatial_merge_size=2,
        )


FAMILY = LightOnOcr()
