"""LLaVA-OneVision: SigLIP tower on one grid, a learned newline after each picture, 1-D positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from luvc_export.core.plan import LlmPlan, Plan
from luvc_export.core.planning import unshared
from luvc_export.core.tiling import Tiling, Video
from luvc_export.errors import UsageError
from luvc_export.export.compression import oim
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import HALF, Normalise, ReferencePrompt, channels_first
from luvc_export.export.families.llava import Llava
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import merged_positions
from luvc_export.export.towers.unit_tower import Seen


class NewlineDecoder(Decoder):
    """Decoder with one text token more than the vocabulary: the learned vector that ends a picture."""

    newline: Tensor

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Text embeddings [B, T, D]; the id after the last of the vocabulary is the newline vector."""
        rows = self.embed_tokens.weight.shape[0]
        known = self.embed_tokens(input_ids.clamp(max=rows - 1))
        return torch.where((input_ids == rows)[:, :, None], self.newline, known)


class PooledVision(nn.Module):
    """Frames of a clip: each pooled by bilinear interpolation, which is a product with a matrix.

    Args:
        tower: What gives the units of the tower's own grid.
        plan: Whose grid they are pooled to.
    """

    pool: Tensor

    def __init__(self, tower: nn.Module, plan: Plan) -> None:
        super().__init__()
        assert plan.encoder.pooled_from is not None
        self.tower, self.plan = tower, plan
        sides = zip(plan.encoder.pooled_from, plan.grid, strict=True)
        self.register_buffer("pool", torch.kron(*(shrinking(side, left) for side, left in sides)), persistent=False)

    def forward(self, image: Tensor, beside: Tensor | None = None) -> Seen:
        """uint8 [n, 1, H, W, 3] -> embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, N_0]."""
        embeds = self.tower(image)[0]
        pooled = self.pool.to(embeds.dtype) @ embeds
        copies = self.plan.encoder.position_copies
        units = oim.start(pooled.unflatten(1, self.plan.grid), copies)
        return pooled, merged_positions(units, self.plan).flatten(1, 2), units.merged_into


def shrinking(side: int, left: int) -> Tensor:
    """One axis of bilinear interpolation without aligned corners, fp32 [left, side]."""
    return nn.functional.interpolate(torch.eye(side)[None], size=left, mode="linear")[0].T.contiguous()


class LlavaOnevision(Llava):
    """LLaVA-OneVision. Several pictures are one tile each; a lone one may be cut, see ``cuts``."""

    model_type = "llava_onevision"
    architecture = LlavaOnevisionForConditionalGeneration
    limits: tuple[str, ...] = ("videos of single frames, or beside pictures in one question",)
    pixels = HALF

    def video(self, config: Any) -> Video | None:
        """Frames whose units are pooled to half as many a side, and a newline after the last of them."""
        rows, columns = (-(-side // 2) for side in self.grid(config))
        newline = config.text_config.vocab_size
        return Video("<video>", 1, (self.image_token_id(config),), closing=newline, pooled=(rows, columns))

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges, or of a clip's plan what it gives, pooled."""
        if plan.encoder.pooled_from is None:
            return super().vision(model, plan, normalise)
        whole = replace(plan.encoder, grid=plan.encoder.pooled_from, pooled_from=None)
        units = whole.units * plan.sharing.images
        keep = unshared((units,) * plan.layers, self.decoder_shape(model.config))
        tower = super().vision(
            model, Plan(whole, LlmPlan(keep, last_layer="full"), plan.sharing.without_quota()), normalise
        )
        return PooledVision(tower, plan)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes and the newline vector. Newlines are text: never pruned."""
        plain = super().decoder(model, plan)
        decoder = NewlineDecoder(self.language_model(model), model.lm_head, plain.head_dim, plain.rope, plan)
        decoder.newline = model.model.image_newline
        return decoder

    def cuts(self, config: Any, grids: Sequence[tuple[int, int]] = ((1, 1),)) -> tuple[Tiling, ...]:
        """A picture and a newline; tiles for the only picture of a prompt: the whole, then a newline after each row.

        Raises:
            UsageError: Tiles that transformers does not make, or makes and then shrinks.
        """
        image, newline = self.image_token_id(config), config.text_config.vocab_size
        base = Tiling((image, newline))
        if [*grids] == [(1, 1)]:
            return (base,)
        side, allowed = config.vision_config.image_size // config.vision_config.patch_size, self.allowed(config)
        for grid in grids:
            if grid not in allowed:
                raise UsageError(
                    "this model does not cut pictures so",
                    where="--tiles",
                    got=f"{grid[0]}x{grid[1]}",
                    expected=", ".join(f"{rows}x{columns}" for rows, columns in allowed),
                )
        tilings = [
            Tiling((image,) * (1 + r * c) + (newline,) * (r * side), (r, c), "first", True, "alone") for r, c in grids
        ]
        return replace(base, used="together"), *tilings

    def pinpoints(self, config: Any) -> list[tuple[int, int]]:
        """Grids of tiles (rows, columns) of ``image_grid_pinpoints``."""
        size = config.vision_config.image_size
        return [(height // size, width // size) for height, width in config.image_grid_pinpoints]

    def allowed(self, config: Any) -> list[tuple[int, int]]:
        """Those of ``pinpoints`` that the model does not shrink."""
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        return [grid for grid in self.pinpoints(config) if grid[0] * grid[1] <= 1.1**2 * most]

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Newlines count as part of the picture in transformers, or of the video."""
        image, newline = self.image_token_id(config), config.text_config.vocab_size
        video = self.video(config)
        if prompt.clips and video is not None and video.pooled is not None:
            kinds = [config.video_token_id if token in (image, newline) else token for token in prompt.token_ids]
            newlines = iter([token == newline for token in prompt.token_ids if token in (image, newline)])
            ids = [
                one
                for token in kinds
                for one in ([token] * (1 if token != config.video_token_id or next(newlines) else prod(video.pooled)))
            ]
            frames = channels_first(prompt.pixels).unflatten(0, (len(prompt.clips), -1))
            return {"input_ids": torch.tensor([ids]), "pixel_values_videos": frames}
        inputs = super().reference_inputs(config, prompt)
        inputs["input_ids"] = torch.where(inputs["input_ids"] == newline, image, inputs["input_ids"])
        if not len(prompt.pixels):
            return inputs
        side = torch.tensor(prompt.pixels.shape[2:4])
        if len(prompt.tiles) == 1 and len(prompt.pixels) > 1:  # the whole, then tiles; a grid's shape leaves no margin
            sizes = (side * torch.tensor(prompt.tiles[0]))[None]
            inputs["pixel_values"] = inputs["pixel_values"][None]
            return inputs | {"image_sizes": sizes, "batch_num_images": torch.tensor([1])}
        return inputs | {
            "image_sizes": side.expand(len(prompt.pixels), -1),
            "batch_num_images": torch.tensor([max(2, len(prompt.pixels))]),  # several pictures: none is cut into tiles
        }

    def tiny_config(self) -> LlavaOnevisionConfig:
        """SigLIP tower whose picture is no multiple of the patch (a margin is cut), Qwen2 of three layers."""
        return LlavaOnevisionConfig(
            vision_config=_tiny.siglip(image_size=64, patch_size=12),
            text_config=_tiny.text(model_type="qwen2"),
            image_token_index=250,
            video_token_index=251,
            image_grid_pinpoints=[[64, 64], [64, 128], [128, 64]],
        )


FAMILY = LlavaOnevision()
