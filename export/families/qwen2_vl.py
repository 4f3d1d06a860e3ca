"""Qwen2-VL: 2x2-patch units, full attention in every block, 2-D rotary encoder, M-RoPE decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tasks import Embedding
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
        width, blocks, unit = config.vision_config.embed_dim, self.blocks(config), self.side(config) ** 2
        inside = int(width * config.vision_config.mlp_ratio)
        return EncoderShape(blocks, width, inside, unit, 0, tuple(range(blocks)))

    def embedding(self, config: Any, task: str) -> Embedding | None:
        """Of the last token, of length 1, without an instruction."""
        return Embedding() if task == "embed" else None

    def tiny_config(self) -> Qwen2VLConfig:
        """Two encoder blocks, three LLM layers with grouped keys, tied head."""
        return Qwen2VLConfig(
            vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2},
            text_config=_tiny.text(rope_parameters=_tiny.mrope(2, 3, 3), **_tiny.ENDS),
            **_tiny.QWEN_TOKENS,
            tie_word_embeddings=True,
        )


FAMILY = Qwen2VL()
