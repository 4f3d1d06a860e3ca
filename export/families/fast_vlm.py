"""FastVLM: FastViT-HD, a convolutional tower of timm, two linear layers, Qwen2."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import FastVlmConfig, FastVlmForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Family, Normalise, Pixels
from luvc_export.export.towers.timm_tower import TimmTower, shape_of


class FastVlm(Family):
    """FastVLM. Its units are there when the tower ends: the encoder's part of any plan does nothing."""

    model_type = "fast_vlm"
    limits = ("merging and pruning inside the encoder, which is convolutional",)
    pixels = Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def build(self, config: Any) -> nn.Module:
        """FastVlmForConditionalGeneration.

        Raises:
            CheckpointError: Another kind of tower.
            MachineError: timm is not installed.
        """
        self.check_half("vision", config, ("timm_wrapper",))
        shape_of(config.vision_config)
        return FastVlmForConditionalGeneration(config)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """No blocks that units go through; FLOPs of each unit."""
        hidden = config.vision_config.hidden_size
        return EncoderShape(0, hidden, hidden, 1, 0, (), flops=shape_of(config.vision_config).flops)

    def unit_pixels(self, config: Any) -> int:
        """By how much the tower shrinks a picture."""
        return shape_of(config.vision_config).unit

    def usual_size(self, config: Any) -> tuple[int, int]:
        """What the models were trained with: 16 x 16 units."""
        side = 16 * self.unit_pixels(config)
        return side, side

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower and the projector."""
        return TimmTower(model.model.vision_tower, model.model.multi_modal_projector, plan, normalise)

    def tiny_config(self) -> FastVlmConfig:
        """FastViT of three stages, the last with attention, Qwen2 of three layers."""
        sizes = {
            "layers": [1, 1, 1],
            "embed_dims": [8, 16, 32],
            "mlp_ratios": [2, 2, 2],
            "se_downsamples": [False, False, False],
            "downsamples": [False, True, True],
            "pos_embs": [None, None, None],
            "token_mixers": ["repmixer", "repmixer", "attention"],
        }
        return FastVlmConfig(
            vision_config={
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "do_pooling": True,
                "hidden_size": 64,
                "model_args": {"inference_mode": True, **sizes},
            },
            text_config=_tiny.text(model_type="qwen2"),
            image_token_index=250,
        )


FAMILY = FastVlm()
