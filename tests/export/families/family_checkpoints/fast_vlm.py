"""What fast_vlm checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.llava.processing_llava import LlavaProcessor

from family_checkpoints import FamilyCheckpoint, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    unit = tiny.family.unit_pixels(tiny.config)
    return LlavaProcessor(**parts, patch_size=unit, vision_feature_select_strategy="full")


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250},
    picture="<image>\n",
    images="clip",
    processor=_processor,
    settings={"do_resize": False, "do_center_crop": False, "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
    repository="KamilaMila/FastVLM-0.5B",
    fitted=lambda tiny: {},
    needs="timm",
    quick=False,
    on_openvino=True,
)
