"""Qianfan-OCR: InternVL's tower, projector and tiles in front of Qwen3; pictures alone."""

from __future__ import annotations

from typing import Any

from transformers import QianfanOCRConfig, QianfanOCRForConditionalGeneration

from luvc_export.core.tiling import Video
from luvc_export.export.families import _tiny, internvl


class Vision(internvl.Vision):
    """By its own name of the blocks."""

    def layers(self) -> Any:
        """Encoder blocks."""
        return self.tower.layers


class QianfanOCR(internvl.InternVL):
    """Qianfan-OCR: pages to Markdown, tables and formulas."""

    model_type = "qianfan_ocr"
    architecture = QianfanOCRForConditionalGeneration
    encoder = Vision

    def template_marker(self, config: Any) -> str | None:
        """What its processor replaces."""
        return "<image>"

    def video(self, config: Any) -> Video | None:
        """None: its processor refuses them."""
        return None

    def tiny_config(self) -> QianfanOCRConfig:
        """Three blocks, Qwen3 of three layers."""
        return QianfanOCRConfig(
            vision_config=_tiny.vision(image_size=64, patch_size=8),
            text_config=_tiny.text(model_type="qwen3", head_dim=16),
            image_token_id=250,
            image_seq_length=16,
        )


FAMILY = QianfanOCR()
