"""Cosmos3-Edge: SigLIP 2 at the picture's own grid, 2x2-patch units, plain MLPs in the decoder, interleaved M-RoPE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cosmos3EdgeConfig, Cosmos3EdgeForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Video
from luvc_export.export.families import _tiny, lfm2_vl
from luvc_export.export.families.base import Family, Normalise, ReferencePrompt
from luvc_export.export.families.qwen3_vl import Qwen3VL
from luvc_export.export.layers import norm
from luvc_export.export.towers.unit_tower import Seen


class Vision(lfm2_vl.Vision):
    """LFM2-VL's tower, a norm of each patch, the patches of a unit to one, two linear layers."""

    padded_patches = False

    def from_patches(self, pixels: Tensor, beside: Tensor | None = None) -> Seen:
        """As ``forward``, from normalised patches unit by unit, colours last, as its processor writes them."""
        (rows, columns), side, patch = self.plan.grid, self.side, self.config.patch_size
        pixels = pixels.reshape(-1, rows, columns, side, side, patch, patch, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return self.from_pixels(pixels.flatten(1, 3).flatten(2, 4)[:, None], beside)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]."""
        x, projector = norm(self.projector.norm, norm(self.tower.post_layernorm, states[0])), self.projector
        joined = x.reshape(x.shape[0], -1, self.side**2 * x.shape[2])
        embeds: Tensor = projector.linear_fc2(projector.act_fn(projector.linear_fc1(joined)))
        return embeds


class Cosmos3Edge(Qwen3VL):
    """Cosmos3-Edge, the half that reasons; what generates is not read."""

    model_type = "cosmos3_edge"
    architecture = Cosmos3EdgeForConditionalGeneration
    also = ()
    limits = ("videos", "generating pictures, videos and actions")

    def blocks(self, config: Any) -> int:
        """All, by SigLIP's name."""
        return Family.blocks(self, config)

    def tapped(self, config: Any) -> tuple[int, ...]:
        """None: the embedding alone."""
        return ()

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        inner = model.model
        return Vision(inner.visual, inner.projector, self.side(model.config), plan, normalise)

    def video(self, config: Any) -> Video | None:
        """None: frames have times of their own."""
        return None

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Patches unit by unit, colours last, and their grids."""
        ids, patch, side = self.expanded(config, prompt), config.vision_config.patch_size, self.side(config)
        if not len(prompt.pixels):
            return {"input_ids": ids}
        rows, columns = (size // patch for size in prompt.pixels.shape[2:4])
        patches = prompt.pixels.reshape(-1, rows // side, side, patch, columns // side, side, patch, 3)
        return {
            "input_ids": ids,
            "mm_token_type_ids": (ids == self.image_token_id(config)).int(),
            "pixel_values": patches.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, patch * patch * 3),
            "image_grid_thw": torch.tensor([(1, rows, columns)] * len(prompt.pixels)),
        }

    def tiny_config(self) -> Cosmos3EdgeConfig:
        """Three blocks whose positions are of another grid than pictures, three LLM layers."""
        return Cosmos3EdgeConfig(
            vision_config=_tiny.vision(num_patches=81, patch_size=8),
            text_config=_tiny.text(head_dim=16, rope_parameters=_tiny.mrope(4, 2, 2), **_tiny.ENDS),
            projector_hidden_size=80,
            **_tiny.QWEN_TOKENS,
        )


FAMILY = Cosmos3Edge()
