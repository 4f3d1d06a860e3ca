"""Gemma 3: SigLIP tower pooled to a fixed grid, images seen both ways, local and global RoPE, four norms a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.core.tiling import Tiling
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import (
    HALF,
    ReferencePrompt,
    places,
    rope_of_kinds,
    rotary_embedding,
    window,
)
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.gemma import FourNormDecoder, gemma_norm
from luvc_export.export.llm.sight import Kind
from luvc_export.export.towers.square_family import SquareFamily, SquareTower

#: The halves of the rotary caches; where a model has layers of one kind alone, they are alike.
LAYER_KINDS = ("full_attention", "sliding_attention")


class Vision(SquareTower):
    """Tower, last norm, mean over each unit's patches, and projection."""

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]."""
        x = norm(self.tower.post_layernorm, states[0])
        pooled = x.reshape(x.shape[0], -1, self.side**2, x.shape[2]).mean(2)
        weight: Tensor = self.projector.mm_input_projection_weight
        return gemma_norm(self.projector.mm_soft_emb_norm, pooled) @ weight


class Gemma3Decoder(FourNormDecoder):
    """Rotary caches hold global, then local frequencies; ``window`` is None where nothing is further away."""

    window: int | None = None

    def kind(self, layer: Any) -> Kind:
        """Sliding layers look back so far; places are each token's own there, and pictures are seen both ways."""
        return Kind(self.window is not None, self.window if layer.self_attn.is_sliding else None)

    def angles(self, layer: Any, cache: Tensor) -> Tensor:
        """The second half for sliding layers, the first for the others."""
        half = self.head_dim // 2
        return cache[:, :, half:] if layer.self_attn.is_sliding else cache[:, :, :half]


class Gemma3(SquareFamily):
    """Gemma 3 with vision (4B and larger), pan-and-scan off.

    Where contexts are longer than the window, sliding layers keep the place of each cached row beside it.
    """

    model_type = "gemma3"
    architecture = Gemma3ForConditionalGeneration
    limits = ("pan and scan", "soft-capped or bidirectional text")
    pixels = replace(HALF, resample="bilinear")
    encoder = Vision

    def side(self, config: Any) -> int:
        """Patches along a side of what the projector pools."""
        return int(config.vision_config.image_size // config.vision_config.patch_size // self._tokens(config))

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the LLM; sliding layers keep places where the context is longer than the window."""
        text = config.get_text_config()
        states = places(text, text.num_hidden_layers)
        return replace(super().decoder_shape(config), context=int(text.max_position_embeddings), states=states)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes.

        Raises:
            CheckpointError: Soft-capped or bidirectional text attention, or RoPE that changes with length.
        """
        text, shape = model.config.text_config, self.decoder_shape(model.config)
        capped = text.attn_logit_softcapping or text.final_logit_softcapping
        if capped or text.use_bidirectional_attention:
            raise CheckpointError(
                "this Gemma text model is not supported",
                where="text_config",
                got=f"soft caps {bool(capped)}, bidirectional {text.use_bidirectional_attention}",
                expected="no soft caps, causal text",
            )
        rotary = rotary_embedding(self.language_model(model), text)
        kinds = [kind if kind in text.layer_types else text.layer_types[0] for kind in LAYER_KINDS]
        rope = rope_of_kinds(rotary, kinds, plan)
        inner, behind = self.language_model(model), window(text)
        decoder = Gemma3Decoder(
            inner, model.lm_head, shape.head_dim, rope, plan, shared_order=behind is None, states=shape.states
        )
        decoder.window = behind
        decoder.scale = float(text.query_pre_attn_scalar) ** -0.5
        return decoder

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """The processor's marks around a picture."""
        plain = super().cut(config, grid)
        return replace(plain, written=("\n\n<start_of_image>", *plain.written, "<end_of_image>\n\n"))

    def template_marker(self, config: Any) -> str | None:
        """The chat template writes the begin mark alone."""
        return "<start_of_image>"

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Every placeholder as often as there are units, which tokens are images, and the pixels."""
        inputs = super().reference_inputs(config, prompt)
        return inputs | {"token_type_ids": (inputs["input_ids"] == self.image_token_id(config)).long()}

    def _tokens(self, config: Any) -> int:
        return round(config.mm_tokens_per_image**0.5)

    def tiny_config(self) -> Gemma3Config:
        """2x2 patches to a token, three LLM layers of which two slide, a window longer than the test's prompts."""
        return Gemma3Config(
            vision_config=_tiny.siglip(image_size=64, patch_size=8),
            text_config=_tiny.text(
                head_dim=16,
                query_pre_attn_scalar=24,
                max_position_embeddings=512,
                sliding_window=512,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
                },
            ),
            mm_tokens_per_image=16,
            image_token_index=250,
            boi_token_index=252,
            eoi_token_index=253,
        )


FAMILY = Gemma3()
