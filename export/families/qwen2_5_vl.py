"""Qwen2.5-VL: 2x2-patch units, window attention with a few full blocks, 2-D rotary encoder, M-RoPE decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tasks import Embedding
from luvc_export.core.tiling import Video
from luvc_export.export.families import _tiny
from luvc_export.export.families.qwen2_vl import Vision
from luvc_export.export.llm.mrope import MropeFamily


class Qwen25VL(MropeFamily):
    """Qwen2.5-VL of any size."""

    model_type = "qwen2_5_vl"
    architecture = Qwen2_5_VLForConditionalGeneration
    also = ("Cosmos-Reason1",)
    encoder = Vision

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes from ``vision_config``, windows and the blocks without them too."""
        vision = config.vision_config
        window = vision.window_size // vision.spatial_merge_size // vision.patch_size
        full = tuple(vision.fullatt_block_indexes)
        return replace(super().encoder_shape(config), window=window, full_attention=full, gated=True)

    def embedding(self, config: Any, task: str) -> Embedding | None:
        """As of Qwen2-VL: of the last token, of length 1, without an instruction."""
        return Embedding() if task == "embed" else None

    def video(self, config: Any) -> Video | None:
        """Pairs of frames whose time positions follow the clock."""
        plain = super().video(config)
        return plain and replace(plain, step=float(config.vision_config.tokens_per_second), step_of="second")

    def tiny_config(self) -> Qwen2_5_VLConfig:
        """Three encoder blocks, windows before and after the full one; three LLM layers, untied head."""
        return Qwen2_5_VLConfig(
            vision_config=_tiny.qwen_vision(fullatt_block_indexes=[1], window_size=112),
            text_config=_tiny.text(intermediate_size=128, rope_parameters=_tiny.mrope(2, 3, 3), **_tiny.ENDS),
            **_tiny.QWEN_TOKENS,
            tie_word_embeddings=False,
        )


FAMILY = Qwen25VL()
