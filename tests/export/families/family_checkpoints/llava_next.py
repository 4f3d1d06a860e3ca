"""What llava_next checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from family_checkpoints import FamilyCheckpoint, Parts


def _fitted(tiny: Any) -> dict[str, Any]:
    side = tiny.size[0]
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def _processor(tiny: Any, parts: Parts) -> Any:
    counted = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return LlavaNextProcessor(**parts, patch_size=12, **counted)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250},
    picture="<image>\n",
    images="llava_next",
    processor=_processor,
    settings={
        "size": {"shortest_edge": 60},
        "crop_size": {"height": 60, "width": 60},
        "image_grid_pinpoints": [[60, 60], [60, 120], [120, 60]],
    },
    repository="llava-hf/llava-v1.6-mistral-7b-hf",
    fitted=_fitted,
    two_tiles={},
)
