"""PaddleOCR-VL: SigLIP with 2-D rotary positions beside interpolated learned ones, 2x2-patch units, M-RoPE decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tiling import Video
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Normalise, ReferencePrompt
from luvc_export.export.layers import norm
from luvc_export.export.llm.mrope import MropeFamily
from luvc_export.export.towers.interpolated_positions import centre_taps, interpolated
from luvc_export.export.towers.rotary_position_vit import Parts, RotaryPositionViT, Sizes
from luvc_export.export.towers.unit_tower import Seen


class Vision(RotaryPositionViT):
    """Tower, its last norm, the projector's norm of each patch, the patches of a unit to one, two linear layers."""

    def __init__(self, model: Any, plan: Plan, normalise: Normalise, shape: EncoderShape) -> None:
        super().__init__(model.visual.vision_model, plan, normalise, shape)
        self.projector: Any = model.projector

    def from_patches(self, pixels: Tensor, beside: Tensor | None = None) -> Seen:
        """As ``RotaryPositionViT``, from patches row by row, as this family's processor writes them."""
        (rows, columns), side = self.plan.grid, self.sizes.side
        patches = pixels.reshape(-1, rows, side, columns, side, self.patch_size).transpose(2, 3)
        return self._from_units(patches, beside)

    def sizes_of(self, config: Any) -> Sizes:
        """Names of its config; pictures are one frame."""
        theta = config.rope_parameters["rope_theta"]
        return Sizes(config.num_attention_heads, config.patch_size, config.spatial_merge_size, 1, theta)

    def layers(self, visual: Any) -> Any:
        """Encoder blocks."""
        return visual.encoder.layers

    def parts(self, layer: Any) -> Parts:
        """Names of SigLIP."""
        a = layer.self_attn

        def qkv(x: Tensor) -> Tensor:
            return torch.cat([a.q_proj(x), a.k_proj(x), a.v_proj(x)], -1)

        return Parts(layer.layer_norm1, qkv, a.out_proj, layer.layer_norm2, layer.mlp)

    def patch(self) -> Any:
        """Convolution that embeds a patch."""
        return self.visual.embeddings.patch_embedding

    def learned_positions(self, rows: int, columns: int) -> Tensor:
        """The square table, bilinear between centres of patches."""
        side, size = self.sizes.side, self.visual.embeddings.num_grid_per_side
        axes = centre_taps(rows * side, size), centre_taps(columns * side, size)
        return interpolated(self.visual.embeddings.position_embedding.weight, size, *axes, side)

    def finish(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, D]."""
        projector = self.projector
        joined = self.per_unit(norm(projector.pre_norm, norm(self.visual.post_layernorm, x)))
        embeds: Tensor = projector.linear_2(projector.act(projector.linear_1(joined)))
        return embeds


class PaddleOCRVL(MropeFamily):
    """PaddleOCR-VL: the model that reads parts of pages; finding those parts is another model's."""

    model_type = "paddleocr_vl"
    architecture = PaddleOCRVLForConditionalGeneration
    limits = ("page layout, which is another model",)

    def as_trained(self, model: Any) -> Any:
        """With learned positions between centres of patches, as 5.0 and 5.23 have them; versions between them do not.

        There are no videos to be placed.
        """
        embeddings = model.model.visual.vision_model.embeddings
        if getattr(embeddings, "interpolation_align_corners", False):
            embeddings.interpolation_align_corners = False
        return model

    def video(self, config: Any) -> Video | None:
        """None: transformers' processor takes pictures alone."""
        return None

    def blocks(self, config: Any) -> int:
        """All, by SigLIP's name."""
        return int(config.vision_config.num_hidden_layers)

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        return Vision(model.model, plan, normalise, self.encoder_shape(model.config))

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Patches row by row, their grids, and which tokens are images."""
        patch, ids = config.vision_config.patch_size, self.expanded(config, prompt)
        rows, columns = (size // patch for size in prompt.pixels.shape[2:4])
        if not len(prompt.pixels):
            return {"input_ids": ids}
        patches = prompt.pixels[:, 0].reshape(-1, rows, patch, columns, patch, 3).permute(0, 1, 3, 5, 2, 4)
        return {
            "input_ids": ids,
            "mm_token_type_ids": (ids == self.image_token_id(config)).int(),
            "pixel_values": patches.reshape(-1, 3, patch, patch),
            "image_grid_thw": torch.tensor([(1, rows, columns)] * len(prompt.pixels)),
        }

    def tiny_config(self) -> PaddleOCRVLConfig:
        """Three blocks whose learned positions are of fewer patches than pictures have, three LLM layers."""
        return PaddleOCRVLConfig(
            vision_config=_tiny.vision(image_size=40, patch_size=8),
            text_config=_tiny.text(head_dim=16, rope_parameters=_tiny.mrope(4, 2, 2)),
            **_tiny.QWEN_TOKENS,
        )


FAMILY = PaddleOCRVL()
