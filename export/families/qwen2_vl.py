"""Qwen2-VL: 2x2-patch units, full attention in every block, 2-D rotary encoder, M-RoPE decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from luvc_export.core.shapes import EncoderShape
from luvc_export.export.families import _tiny
from luvc_export.export.layers import norm
from luvc_export.export.llm.mrope import MropeFamily
from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT


class Vision(RotaryPositionViT):
    """Encoder whose patch merger norms each patch, then joins the patches of a unit."""

    def finish(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, D]."""
        merger = self.visual.merger
        embeds: Tensor = merger.mlp(self.per_unit(norm(merger.ln_q, x)))
        return embeds


class Qwen2VL(MropeFamily):
    """Qwen2-VL of any size."""

    model_type = "qwen2_vl"
    architecture = Qwen2VLForConditionalGeneration
    encoder = Vision

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes from ``vision_config``; its ``hidden_size`` is the LLM's, ``embed_dim`` the encoder's."""
        vision = config.vision_config
        return EncoderShape(
            blocks=vision.depth,
            hidden=vision.embed_dim,
            intermediate=int(vision.embed_dim * vision.mlp_ratio),
            unit=vision.spatial_merge_size**2,
            window=0,
            full_attention=tuple(range(vision.depth)),
        )

    def tiny_config(self) -> Qwen2VLConfig:
        """Two encoder blocks, three LLM layers with grouped keys, tied head."""
        return Qwen2VLConfig(
            vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2},
            text_config=_tiny.text(rope_parameters=_tiny.mrope(2, 3, 3), **_tiny.ENDS),
            **_tiny.QWEN_TOKENS,
            tie_word_embeddings=True,
        )


FAMILY = Qwen2VL()
