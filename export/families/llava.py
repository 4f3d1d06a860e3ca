"""LLaVA: CLIP (class token set aside) or SigLIP tower, feature layers by config, two-layer projector, 1-D positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Normalise
from luvc_export.export.layers import norm
from luvc_export.export.towers.square_family import SquareFamily, SquareTower

TOWERS = ("clip_vision_model", "siglip_vision_model")


class Vision(SquareTower):
    """Tower and projector. Several feature layers are joined channel by channel, in the order of the config."""

    def __init__(self, model: Any, plan: Plan, normalise: Normalise, grid: tuple[int, int], side: int) -> None:
        self.wanted = feature_layers(model.config)
        super().__init__(model, plan, normalise, grid, side, tuple(sorted({*self.wanted})))

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U, C] of every feature layer -> [n, U, D]."""
        embeds: Tensor = self.projector(torch.cat([states[self.features.index(layer)] for layer in self.wanted], -1))
        return embeds

    def class_token(self) -> Tensor | None:
        """CLIP has one."""
        token = getattr(self.tower.embeddings, "class_embedding", None)
        return None if token is None else token[None]

    def enter(self, x: Tensor) -> Tensor:
        """CLIP norms what enters (its name is spelled so in the checkpoints)."""
        return norm(self.tower.pre_layrnorm, x) if hasattr(self.tower, "pre_layrnorm") else x


def feature_layers(config: Any) -> tuple[int, ...]:
    """``vision_feature_layer`` as numbers of blocks run, in the order of the config.

    Raises:
        CheckpointError: The state before the first block is asked for.
    """
    stated, blocks = config.vision_feature_layer, config.vision_config.num_hidden_layers
    listed = [stated] if isinstance(stated, int) else stated
    layers = tuple(layer if layer >= 0 else blocks + 1 + layer for layer in listed)
    if not all(1 <= layer <= blocks for layer in layers):
        raise CheckpointError(
            "this vision feature layer is none of the tower's blocks",
            where="vision_feature_layer",
            got=stated,
            expected=f"layers 1 to {blocks}, or -1 to -{blocks}",
        )
    return layers


class Llava(SquareFamily):
    """LLaVA 1.5 and models of its form (one picture, one size)."""

    model_type = "llava"
    architecture = LlavaForConditionalGeneration
    towers = TOWERS
    encoder = Vision
    limits: tuple[str, ...] = ("towers other than CLIP and SigLIP", "the class token as a visual token")

    def blocks(self, config: Any) -> int:
        """Up to the last feature layer."""
        return max(feature_layers(config))

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges.

        Raises:
            CheckpointError: Another kind of tower, or a class token that is kept as a visual token.
        """
        config = model.config
        self.check_half("vision", config, TOWERS)
        has_class = config.vision_config.model_type == "clip_vision_model"
        if has_class != (config.vision_feature_select_strategy == "default"):
            raise CheckpointError(
                "the feature selection does not leave a grid of patches",
                where="vision_feature_select_strategy",
                got=f"{config.vision_feature_select_strategy!r} with a {config.vision_config.model_type}",
                expected="'default' (drops the class token) with CLIP, 'full' with SigLIP",
            )
        return super().vision(model, plan, normalise)

    def tiny_config(self) -> LlavaConfig:
        """CLIP tower of four blocks read after the second and the third, Llama of three layers."""
        return LlavaConfig(
            vision_config=_tiny.vision(
                model_type="clip_vision_model", num_hidden_layers=4, image_size=60, patch_size=12
            ),
            text_config=_tiny.text(model_type="llama"),
            image_token_index=250,
            vision_feature_layer=[-3, -2],
        )


FAMILY = Llava()
