"""Qwen2.5-VL: 2x2-patch units, window attention with a few full blocks, 2-D rotary encoder, M-RoPE decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tiling import Video
from luvc_export.export.families.base import Normalise
from luvc_export.export.layers import norm
from luvc_export.export.llm.mrope import MropeFamily
from luvc_export.export.llm.rope import mrope_axes
from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT


class Vision(RotaryPositionViT):
    """Encoder whose patch merger norms each patch, then joins the patches of a unit."""

    def finish(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, D]."""
        merger = self.visual.merger
        embeds: Tensor = merger.mlp(self.per_unit(norm(merger.ln_q, x)))
        return embeds


class Qwen25VL(MropeFamily):
    """Qwen2.5-VL of any size."""

    model_type = "qwen2_5_vl"
    also = ("Cosmos-Reason1",)

    def build(self, config: Any) -> nn.Module:
        """Qwen2_5_VLForConditionalGeneration."""
        return Qwen2_5_VLForConditionalGeneration(config)

    def axes(self, section: list[int], frequencies: int) -> list[int]:
        """Sections one after another."""
        return mrope_axes(section)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes from ``vision_config``."""
        vision = config.vision_config
        return EncoderShape(
            blocks=vision.depth,
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            unit=vision.spatial_merge_size**2,
            window=vision.window_size // vision.spatial_merge_size // vision.patch_size,
            full_attention=tuple(vision.fullatt_block_indexes),
            gated=True,
        )

    def video(self, config: Any) -> Video | None:
        """Pairs of frames whose time positions follow the clock."""
        plain = super().video(config)
        return plain and replace(plain, step=float(config.vision_config.tokens_per_second), step_of="second")

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The encoder with the plan's merges."""
        shape = self.encoder_shape(model.config)
        return Vision(model.model.visual, plan, normalise, shape.hidden, shape.window, shape.full_attention)

    def tiny_config(self) -> Qwen2_5_VLConfig:
        """Three encoder blocks, windows before and after the full one; three LLM layers, untied head."""
        return Qwen2_5_VLConfig(
            vision_config={
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [1],
                "window_size": 112,
            },
            text_config={
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 256,
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
            image_token_id=250,
            video_token_id=251,
            vision_start_token_id=252,
            vision_end_token_id=253,
            tie_word_embeddings=False,
        )


FAMILY = Qwen25VL()
