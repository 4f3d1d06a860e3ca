"""Ovis2: AIMv2 tower on one grid, each unit's share in a visual vocabulary whose last rows are marks, 1-D positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Ovis2Config, Ovis2ForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tiling import Tiling
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Normalise, ReferencePrompt
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT, Parts
from luvc_export.export.towers.square_family import SquareFamily


class Vision(LearnedPositionViT):
    """Tower, its last norm, the patches of a unit to scores of visual words, the mean word by them."""

    def __init__(self, model: Any, plan: Plan, normalise: Normalise, grid: tuple[int, int], side: int) -> None:
        seen = model.vision_tower
        super().__init__(seen.transformer, plan, normalise, grid, side, (seen.config.num_hidden_layers,))
        self.head, self.head_norm, self.hard = seen.head_linear, seen.head_norm, seen.config.tokenize_function
        self.words = model.visual_embeddings_table

    def parts(self, layer: Any) -> Parts:
        """AIMv2's names."""
        a = layer.attention
        return Parts(layer.rms_norm1, a.q_proj, a.k_proj, a.v_proj, a.out_proj, layer.rms_norm2, layer.ffn)

    def embedded(self, patches: Tensor) -> Tensor:
        """Normed before their positions."""
        return norm(self.tower.embeddings.rms_norm, patches)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]."""
        x = norm(self.tower.rms_norm, states[0])
        scores = self.head_norm(self.head(x.reshape(x.shape[0], -1, self.side**2 * x.shape[2])))
        if self.hard == "st_argmax":
            return self.words.weight.index_select(0, scores.argmax(-1).flatten()).unflatten(0, scores.shape[:2])
        return scores.softmax(-1) @ self.words.weight[: scores.shape[2]]


class MarkedDecoder(Decoder):
    """Tokens beyond the vocabulary are the last rows of the visual one; marks that an answer holds are text."""

    words: Any
    marks: int

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Text embeddings [B, T, D]."""
        known, first = self.embed_tokens.weight.shape[0], self.words.weight.shape[0] - self.marks
        row = first + (input_ids - known).clamp(min=0)
        looked_up = self.words.weight.index_select(0, row.flatten()).unflatten(0, input_ids.shape)
        return torch.where(
            (input_ids >= known)[:, :, None], looked_up, self.embed_tokens(input_ids.clamp(max=known - 1))
        )


class Ovis2(SquareFamily):
    """Ovis2. A picture is one image; its processor chooses tiles by the area that they cover."""

    model_type = "ovis2"
    architecture = Ovis2ForConditionalGeneration
    limits = ("tiles",)
    tiling = "closest_ratio"
    encoder = Vision

    def side(self, config: Any) -> int:
        """Of what joins patches."""
        return int(config.vision_config.hidden_stride)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Full attention in every block, gated MLPs."""
        return replace(super().encoder_shape(config), gated=True)

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges.

        Raises:
            CheckpointError: Visual words are drawn, or a row of patches is no whole number of units.
        """
        vision = model.config.vision_config
        if vision.tokenize_function not in ("softmax", "st_argmax"):
            raise CheckpointError(
                "visual words are chosen by chance",
                where="vision_config.tokenize_function",
                got=repr(vision.tokenize_function),
                expected="'softmax' or 'st_argmax'",
            )
        if vision.image_size % self.unit_pixels(model.config):
            raise CheckpointError(
                "a row of patches is no whole number of units",
                where="vision_config.image_size",
                got=vision.image_size,
                expected=f"a multiple of {self.unit_pixels(model.config)}",
            )
        return super().vision(model, plan, normalise)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes and the marks around a picture."""
        plain = super().decoder(model, plan)
        decoder = MarkedDecoder(self.language_model(model), model.lm_head, plain.head_dim, plain.rope, plan)
        decoder.words, decoder.marks = model.model.visual_embeddings_table, len(model.config.visual_indicator_token_ids)
        return decoder

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """A picture between three marks: begin, behind it that of a whole picture, end; two more are of tiles."""
        begin = config.text_config.vocab_size
        return Tiling((begin, *super().cut(config, grid).written, begin + 1, begin + 4))

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Marks are tokens of the vocabulary in transformers, which looks them up elsewhere beside pictures."""
        inputs, marks = super().reference_inputs(config, prompt), torch.tensor(config.visual_indicator_token_ids)
        beyond = inputs["input_ids"] - config.text_config.vocab_size
        inputs["input_ids"] = torch.where(beyond < 0, inputs["input_ids"], marks[beyond.clamp(min=0)])
        return inputs

    def template_marker(self, config: Any) -> str | None:
        """Templates write another token than the one that is repeated."""
        return "<image>"

    def tiny_config(self) -> Ovis2Config:
        """Three blocks of 2x2 units, 40 visual words, Qwen2 of three layers."""
        return Ovis2Config(
            vision_config=_tiny.vision(image_size=64, patch_size=8, vocab_size=45, hidden_stride=2),
            text_config=_tiny.text(model_type="qwen2"),
            image_token_id=250,
            visual_indicator_token_ids=[251, 252, 253, 254, 255],
            vocab_size=256,
            hidden_size=64,
        )


FAMILY = Ovis2()
