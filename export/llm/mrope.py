"""What the Qwen-VL families share beside the encoder: M-RoPE decoder and the inputs of their transformers models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Video
from luvc_export.export.families.base import POSITION_COPIES, Family, expand_images, rotary_embedding
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope


class MropeFamily(Family):
    """A family whose LLM places visual tokens by (t, h, w) and whose encoder takes flat patches."""

    position_kind = "mrope"

    def unit_pixels(self, config: Any) -> int:
        """Patch size times the patch merger's side."""
        return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)

    def axes(self, section: list[int]) -> list[int]:
        """Position axis of every rotary frequency, from ``mrope_section``."""
        raise NotImplementedError

    def video(self, config: Any) -> Video | None:
        """Pairs of frames, all in one place of the text, a time position apart."""
        return Video("<|video_pad|>", config.vision_config.temporal_patch_size, (self.image_token_id(config),), 1.0)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        text = model.config.text_config
        inner = self.language_model(model)
        rotary = rotary_embedding(inner, text)
        copies = POSITION_COPIES if plan.positions == "multi" else 1
        axes = self.axes(list(text.rope_parameters["mrope_section"]))
        rope = Rope(rotary.inv_freq, axes, rotary.attention_scaling, copies, axes_per_copy=3)
        shape = self.decoder_shape(model.config)
        added = self.visual_width(model.config) // shape.hidden - 1
        return Decoder(inner, model.lm_head, shape.head_dim, rope, plan, added)

    def reference_inputs(self, config: Any, pixels: Tensor, token_ids: list[int]) -> dict[str, Any]:
        """Flat patches, their grids, and which tokens are images."""
        side, image = self.unit_pixels(config), self.image_token_id(config)
        rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
        ids = expand_images(token_ids, image, rows * columns)
        if not len(pixels):
            return {"input_ids": ids}
        vision = config.vision_config
        grid = (1, rows * vision.spatial_merge_size, columns * vision.spatial_merge_size)
        return {
            "input_ids": ids,
            "pixel_values": flat_patches(
                pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
            ),
            "image_grid_thw": torch.tensor([grid] * len(pixels)),
            "mm_token_type_ids": (ids == image).to(torch.int32),
        }


def flat_patches(pixels: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """[n, 1, H, W, 3] -> [n * patches, 3 * frames * patch * patch], unit after unit, the patches of one together."""
    rows, columns = pixels.shape[2] // (patch * merge), pixels.shape[3] // (patch * merge)
    tiles = pixels.expand(-1, frames, -1, -1, -1).reshape(-1, frames, rows, merge, patch, columns, merge, patch, 3)
    return tiles.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3 * frames * patch * patch)
