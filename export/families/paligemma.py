"""PaliGemma and PaliGemma 2: SigLIP tower, one linear layer, Gemma or Gemma 2 that sees the whole prompt both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Prefix
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import HALF, ReferencePrompt
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.gemma import FourNormDecoder, GemmaDecoder
from luvc_export.export.llm.rope import Rope
from luvc_export.export.towers.square_family import SquareFamily, SquareTower


class Vision(SquareTower):
    """Tower, last norm and projection."""

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U, C] -> [n, U, D]."""
        embeds: Tensor = self.projector.linear(norm(self.tower.post_layernorm, states[0]))
        return embeds


class RopeFromOne(Rope):
    """Positions begin with 1, as transformers counts them for this family alone."""

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """fp32 positions [A, B, S] that begin with 0 -> (cos, sin), each fp32 [B, S, Dh / 2]."""
        return super().forward(position_ids + 1)


class PaliGemma(SquareFamily):
    """PaliGemma, PaliGemma 2 and their mixes, at the picture size of the checkpoint."""

    model_type = "paligemma"
    architecture = PaliGemmaForConditionalGeneration
    text_models = ("gemma", "gemma2")
    limits = ("several turns", "contexts longer than the sliding window")
    pixels = HALF
    encoder = Vision

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes.

        Raises:
            CheckpointError: A text model this package does not compute, or RoPE that changes with length.
        """
        plain, text = super().decoder(model, plan), model.config.text_config
        frequencies, copies = plain.rope.inv_freq, plan.encoder.position_copies
        rope = RopeFromOne(frequencies, [0] * len(frequencies), float(plain.rope.scaling), copies)
        arguments = self.language_model(model), model.lm_head, plain.head_dim, rope, plan
        if text.model_type == "gemma":
            return GemmaDecoder(*arguments)
        decoder = FourNormDecoder(*arguments)
        decoder.scale = float(text.query_pre_attn_scalar) ** -0.5
        decoder.scores_cap, decoder.logits_cap = text.attn_logit_softcapping, text.final_logit_softcapping
        return decoder

    def prefix(self, config: Any) -> Prefix | None:
        """What the processor writes after the last picture and at the end."""
        return Prefix("<bos>", "\n")

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Every placeholder as often as there are units, the pixels, and that all of it is a prefix."""
        inputs = super().reference_inputs(config, prompt)
        return inputs | {"token_type_ids": torch.zeros_like(inputs["input_ids"])}

    def tiny_config(self) -> PaliGemmaConfig:
        """SigLIP of three blocks, Gemma of three layers."""
        return PaliGemmaConfig(
            vision_config=_tiny.siglip(image_size=48, patch_size=12),
            text_config=_tiny.text(model_type="gemma", num_key_value_heads=1, head_dim=16),
            image_token_index=250,
            projection_dim=64,
        )


FAMILY = PaliGemma()
