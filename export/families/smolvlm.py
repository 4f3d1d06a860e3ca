"""SmolVLM and SmolVLM2: Idefics3 with another text model and mostly 4x4 patches to a unit."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from luvc_export.export.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """SmolVLM and SmolVLM2."""

    model_type = "smolvlm"
    limits = ("video",)

    def build(self, config: Any) -> nn.Module:
        """SmolVLMForConditionalGeneration."""
        return SmolVLMForConditionalGeneration(config)

    def tiny_config(self) -> SmolVLMConfig:
        """As Idefics3's with 5x5 units on 25x25 patches, where fp32 puts some patches one bucket early."""
        sizes = self.tiny_sizes()
        vision = sizes["vision_config"] | {"image_size": 100, "patch_size": 4}
        return SmolVLMConfig(**sizes | {"scale_factor": 5, "vision_config": vision})


FAMILY = SmolVLM()
