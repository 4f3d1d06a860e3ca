"""Idefics3: SigLIP-like tower with bucketed positions, pixel shuffle as unit, one linear projection, 1-D positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Tiling, TilingRule
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import HALF, Normalise, ReferencePrompt
from luvc_export.export.layers import norm
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT
from luvc_export.export.towers.square_family import SquareFamily


class Vision(LearnedPositionViT):
    """Tower, last norm, pixel shuffle (each unit's patches side by side) and projection."""

    def __init__(self, model: Any, plan: Plan, normalise: Normalise, grid: tuple[int, int], side: int) -> None:
        layers = model.config.vision_config.num_hidden_layers
        super().__init__(model.vision_model, plan, normalise, grid, side, (layers,))
        self.connector = model.connector
        self.buckets = buckets(grid[0] * side)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]."""
        x = norm(self.tower.post_layernorm, states[0])
        embeds: Tensor = self.connector.modality_projection(x.reshape(x.shape[0], -1, self.side**2 * x.shape[2]))
        return embeds

    def positions(self) -> Tensor:
        """Learned positions [patches, C] at the bucket of each patch."""
        bucket, table = self.buckets, self.tower.embeddings.position_embedding.weight
        if bucket == [*range(len(bucket))]:
            return table
        return table.index_select(0, torch.tensor([row * len(bucket) + column for row in bucket for column in bucket]))


def buckets(count: int) -> list[int]:
    """Row of the position table for each of ``count`` patches along a side.

    A patch's place as a fraction of the picture falls between bucket edges; in fp32 some land one bucket early (25
    patches have such, 26 and 32 have none). transformers computes the fractions so, hence so does this.
    """
    place = (torch.arange(count, dtype=torch.float32) * (1.0 / torch.tensor(count))).clamp(max=1.0 - 1e-6)
    return torch.bucketize(place, torch.arange(1 / count, 1.0, 1 / count), right=True).tolist()


class Idefics3(SquareFamily):
    """Idefics3."""

    model_type = "idefics3"
    architecture = Idefics3ForConditionalGeneration
    limits: tuple[str, ...] = ()
    pixels = replace(HALF, resample="lanczos")
    tiling: TilingRule = "longest_edge"
    encoder: Callable[..., nn.Module] = Vision

    def language_model(self, model: Any) -> nn.Module:
        """The text model."""
        inner: nn.Module = model.model.text_model
        return inner

    def side(self, config: Any) -> int:
        """The pixel shuffle's side."""
        return int(config.scale_factor)

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """Tiles row by row, each behind its label, then the whole picture; an uncut one as a whole alone."""
        image, fake = self.image_token_id(config), "<fake_token_around_image>"
        written: list[str | int] = []
        for row in range(grid[0]) if grid != (1, 1) else ():
            for column in range(grid[1]):
                written += [f"{fake}<row_{row + 1}_col_{column + 1}>", image]
            written.append("\n")
        written += ["\n"] if written else []
        return Tiling((*written, f"{fake}<global-img>", image, fake), grid, "last" if len(written) > 1 else "none")

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Every placeholder as often as there are units, and the pixels [1, n, 3, H, W]."""
        inputs = super().reference_inputs(config, prompt)
        return {name: value[None] if name == "pixel_values" else value for name, value in inputs.items()}

    def tiny_config(self) -> Any:
        """Three blocks with 2x2 units, Llama of three layers."""
        return Idefics3Config(**self.tiny_sizes())

    def tiny_sizes(self) -> dict[str, Any]:
        """Arguments of ``tiny_config``."""
        return {
            "vision_config": _tiny.vision(image_size=64, patch_size=8),
            "text_config": _tiny.text(model_type="llama", pad_token_id=0),
            "image_token_id": 250,
            "scale_factor": 2,
            "tie_word_embeddings": True,
        }


FAMILY = Idefics3()
