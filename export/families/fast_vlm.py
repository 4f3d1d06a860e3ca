"""FastVLM: FastViT-HD, a convolutional tower of timm, two linear layers, Qwen2."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import FastVlmConfig, FastVlmForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.errors import MachineError
from luvc_export.export.compression import oim
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Family, Normalise, Pixels
from luvc_export.export.llm.rope import merged_positions
from luvc_export.export.towers.unit_tower import Seen

_GRID = 4


class Shape(NamedTuple):
    """Pixels along a side of a unit, and FLOPs of all products for each of them (of a picture of 4 x 4)."""

    unit: int
    flops: int


class TimmTower(nn.Module):
    """Convolutional tower of timm (transformers' ``timm_wrapper``) and projector: pixels to a grid of tokens in one go.

    Units are what the last feature map holds; none is there before, so nothing merges and nothing leaves inside.

    Args:
        tower: transformers' ``TimmWrapperModel``.
        projector: [n, U, C] to [n, U, D].
        plan: Grid; its encoder part merges and prunes nothing.
        normalise: Pixel arithmetic.
    """

    def __init__(self, tower: Any, projector: Any, plan: Plan, normalise: Normalise) -> None:
        super().__init__()
        self.tower, self.projector, self.plan, self.normalise = tower, projector, plan, normalise
        for module in tower.modules():
            if hasattr(module, "fused_attn"):  # as products: TensorRT-RTX has no kernel for its one operator
                module.fused_attn = False
        self.copies = plan.encoder.position_copies

    def forward(self, image: Tensor, beside: Tensor | None = None) -> Seen:
        """uint8 [n, F, H, W, 3] -> embeddings [n, U, D], positions [n, U, 2 * copies], merged_into [n, U].

        ``beside``, units that show padding alone, changes nothing: none is chosen here.
        """
        pixels = self.normalise(image)[:, 0].permute(0, 3, 1, 2)
        features = self.tower.timm_model.forward_features(pixels.to(next(self.tower.parameters()).dtype))
        embeds = self.projector(features.flatten(2).transpose(1, 2))
        units = oim.start(embeds.unflatten(1, self.plan.grid), self.copies)
        return embeds, merged_positions(units, self.plan).flatten(1, 2), units.merged_into


def shape_of(config: Any) -> Shape:
    """Of a ``TimmWrapperConfig``.

    Raises:
        MachineError: timm is not installed, or does not load.
    """
    return _shape(config.architecture, json.dumps(config.model_args or {}, sort_keys=True))


@lru_cache(maxsize=32)
def _shape(architecture: str, arguments: str) -> Shape:
    try:
        import timm
    except Exception as error:  # without torchvision, or beside one of another build, it raises almost anything
        raise MachineError(
            "the vision tower of this model is timm's",
            where="import timm",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="timm, and a torchvision of the same build as torch",
            fix="pip install 'luvc-export[timm]'",
        ) from error
    counted = [0]

    def count(module: Any, inputs: Any, out: Tensor) -> None:
        counted[0] += 2 * out.numel() * module.weight[0].numel()

    with torch.device("meta"), torch.no_grad():
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **json.loads(arguments)).eval()
        unit = int(model.feature_info[-1]["reduction"])
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        model.forward_features(torch.zeros(1, 3, _GRID * unit, _GRID * unit))
    return Shape(unit, counted[0] // _GRID**2)


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
