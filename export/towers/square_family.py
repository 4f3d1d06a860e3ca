"""Families whose tower has learned positions for one square picture: sizes from ``vision_config``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from luvc_export.core.plan import Plan
from luvc_export.export.families.base import Family, Normalise
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT


class SquareTower(LearnedPositionViT):
    """The tower and the projector of a model whose inner one calls them ``vision_tower``, ``multi_modal_projector``.

    ``features``: see ``LearnedPositionViT``; None for the state after the last block alone.
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        normalise: Normalise,
        grid: tuple[int, int],
        side: int,
        features: tuple[int, ...] | None = None,
    ) -> None:
        features = features or (model.config.vision_config.num_hidden_layers,)
        super().__init__(model.vision_tower, plan, normalise, grid, side, features)
        self.projector: Any = model.multi_modal_projector


class SquareFamily(Family):
    """Full attention in every block; a unit is ``side`` x ``side`` patches."""

    #: Tower and projector, made of the transformers model's inner one, a plan, ``Normalise``, ``grid`` and ``side``.
    encoder: Callable[[Any, Plan, Normalise, tuple[int, int], int], nn.Module]

    def image_size(self, config: Any) -> tuple[int, int] | None:
        """The tower's."""
        return config.vision_config.image_size, config.vision_config.image_size

    def grid(self, config: Any) -> tuple[int, int]:
        """Units (rows, columns) of a picture."""
        units = int(config.vision_config.image_size) // self.unit_pixels(config)
        return units, units

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        return self.encoder(model.model, plan, normalise, self.grid(model.config), self.side(model.config))
