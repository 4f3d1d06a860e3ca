"""What llava_onevision checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, still
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from family_checkpoints import FamilyCheckpoint, Parts, no_kinds, token_index


def _processor(tiny: Any, parts: Parts) -> Any:
    counted = {"num_image_tokens": tiny.plan.units, "vision_feature_select_strategy": "full"}
    return still(LlavaOnevisionProcessor)(**parts, video_processor=Still(), **counted)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250, "<video>": 251},
    picture="<image>\n",
    images="llava_onevision",
    processor=_processor,
    settings={
        "size": {"height": 64, "width": 64},
        "image_grid_pinpoints": [[64, 64], [64, 128], [128, 64]],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    repository="llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    video="<video>\n",
    two_tiles={},
    old=(no_kinds, token_index),
    cuts_always="only",
    nested=True,
    quick=False,
    on_openvino=True,
)
