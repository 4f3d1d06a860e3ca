"""GLM-OCR: Qwen-VL's kind of tower with normed heads and gated MLPs, GLM's decoder: turned in pairs, normed behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GlmOcrConfig, GlmOcrForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tiling import Video
from luvc_export.export.families import _tiny
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.mrope import MropeFamily
from luvc_export.export.towers.rotary_position_vit import Parts, RotaryPositionViT


class Vision(RotaryPositionViT):
    """Encoder, its last norm, the patches of a unit to one, a gated merger."""

    def parts(self, layer: Any) -> Parts:
        """Names of Qwen-VL; queries and keys are normed head by head."""
        plain = super().parts(layer)
        return plain._replace(qkv=self._normed(layer.attn, plain.qkv))

    def _normed(self, attn: Any, qkv: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def normed(x: Tensor) -> Tensor:
            query, key, value = qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)
            return torch.stack([norm(attn.q_norm, query), norm(attn.k_norm, key), value], 2).flatten(2)

        return normed

    def finish(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, D]; the downsampling weight has the patches of a channel side by side."""
        visual, joins = self.visual, self.visual.downsample
        units = norm(visual.post_layernorm, x).unflatten(1, (-1, self.patches)).transpose(2, 3).flatten(2)
        embeds: Tensor = visual.merger(nn.functional.linear(units, joins.weight.flatten(1), joins.bias))
        return embeds


class GlmDecoder(Decoder):
    """Pairs of neighbours turn in place of halves, and what a layer adds is normed once more."""

    def turn(self, layer: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As halves, between which the pairs are taken apart and put together again."""
        apart = heads.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return super().turn(layer, apart, cos, sin).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)

    def after_attention(self, layer: Any, attended: Tensor) -> Tensor:
        """Normed."""
        return self.norm_of(layer.post_self_attn_layernorm, attended)

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """Normed behind the MLP too."""
        return self.norm_of(layer.post_mlp_layernorm, super().feed_forward(layer, x))


class GlmOcr(MropeFamily):
    """GLM-OCR: parts of pages to text, tables, formulas and JSON; finding those parts is another model's."""

    model_type = "glm_ocr"
    architecture = GlmOcrForConditionalGeneration
    limits = ("page layout, which is another model", "videos")
    encoder = Vision

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Full attention in every block, gated MLPs."""
        return replace(super().encoder_shape(config), gated=True)

    def video(self, config: Any) -> Video | None:
        """None: the model reads pages."""
        return None

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        head_dim = self.decoder_shape(model.config).head_dim
        return GlmDecoder(self.language_model(model), model.lm_head, head_dim, self.rope(model, plan), plan)

    def tiny_config(self) -> GlmOcrConfig:
        """Three blocks, three LLM layers with grouped keys."""
        return GlmOcrConfig(
            vision_config=_tiny.qwen_vision(patch_size=8),
            text_config=_tiny.text(head_dim=16, rope_parameters=_tiny.mrope(2, 3, 3), **_tiny.ENDS),
            image_token_id=250,
            video_token_id=251,
        )


FAMILY = GlmOcr()
