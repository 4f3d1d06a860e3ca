"""InternVL (transformers' own form): class token set aside, LayerScale, 2x2 pixel shuffle as unit, 1-D positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Tiling, Video
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import IMAGENET, Normalise
from luvc_export.export.layers import norm
from luvc_export.export.towers.learned_position_vit import Parts
from luvc_export.export.towers.square_family import SquareFamily, SquareTower


class Vision(SquareTower):
    """Tower, pixel shuffle (each unit's patches side by side) and projector."""

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * 4, C] -> [n, U, D]. The tower's last norm is an identity in models with mean pooling."""
        x = states[0] if isinstance(self.tower.layernorm, nn.Identity) else norm(self.tower.layernorm, states[0])
        embeds: Tensor = self.projector(x.reshape(x.shape[0], -1, self.side**2 * x.shape[2]))
        return embeds

    def layers(self) -> Any:
        """Encoder blocks."""
        return self.tower.encoder.layer

    def parts(self, layer: Any) -> Parts:
        """InternVL's names; norms of queries and keys act on all heads at once."""
        a, scales = layer.attention, (layer.lambda_1, layer.lambda_2)
        norms = (a.q_norm, a.k_norm) if self.config.use_qk_norm else (None, None)
        products = a.q_proj, a.k_proj, a.v_proj, a.projection_layer
        return Parts(layer.layernorm_before, *products, layer.layernorm_after, layer.mlp, scales, *norms)

    def patch(self) -> Any:
        """Convolution that embeds a patch."""
        return self.tower.embeddings.patch_embeddings.projection

    def positions(self) -> Tensor:
        """Learned positions [1 + patches, C]."""
        table: Tensor = self.tower.embeddings.position_embeddings[0]
        return table

    def class_token(self) -> Tensor | None:
        """Class token [1, C]."""
        token: Tensor = self.tower.embeddings.cls_token[0]
        return token


class InternVL(SquareFamily):
    """InternVL 2.5, 3 and 3.5 converted to transformers (``OpenGVLab/...-hf``)."""

    model_type = "internvl"
    architecture = InternVLForConditionalGeneration
    pixels = IMAGENET
    tiling = "closest_ratio"
    encoder = Vision

    def side(self, config: Any) -> int:
        """The pixel shuffle's side."""
        return round(1 / config.downsample_ratio)

    def unit_pixels(self, config: Any) -> int:
        """Patch size times the pixel shuffle's side."""
        return int(config.vision_config.patch_size[0] * self.side(config))

    def image_size(self, config: Any) -> tuple[int, int] | None:
        """The tile's."""
        height, width = config.vision_config.image_size
        return int(height), int(width)

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges.

        Raises:
            CheckpointError: A tower without learned positions, or features of another block than the last.
        """
        config = model.config
        features = config.vision_feature_layer, config.vision_feature_select_strategy
        if not config.vision_config.use_absolute_position_embeddings or features != (-1, "default"):
            raise CheckpointError(
                "this InternVL tower is not supported",
                where="vision_config, vision_feature_layer",
                got=f"absolute positions {config.vision_config.use_absolute_position_embeddings}, features {features}",
                expected="absolute positions, features (-1, 'default')",
            )
        return super().vision(model, plan, normalise)

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """Tiles row by row and the whole picture after them, all between one pair of marks."""
        plain = Tiling((), grid, "none" if grid == (1, 1) else "last")
        return replace(plain, written=("<img>", *[self.image_token_id(config)] * plain.images, "</img>"))

    def video(self, config: Any) -> Video | None:
        """Each frame one tile behind its number, a line each (``InternVLProcessor.replace_video_token``)."""
        written = ("Frame{number}: <img>", self.image_token_id(config), "</img>")
        return Video("<video>", 1, written, between="\n")

    def grid(self, config: Any) -> tuple[int, int]:
        """Units (rows, columns) of a tile."""
        height, width = config.vision_config.image_size
        unit = self.unit_pixels(config)
        return height // unit, width // unit

    def tiny_config(self) -> InternVLConfig:
        """Three blocks with norms of queries and keys, Qwen2 of three layers with biases and grouped keys."""
        return InternVLConfig(
            vision_config=_tiny.vision(
                image_size=64, patch_size=8, use_qk_norm=True, norm_type="rms_norm", attention_bias=True
            ),
            text_config=_tiny.text(model_type="qwen2"),
            image_token_id=250,
            image_seq_length=16,
        )


FAMILY = InternVL()
