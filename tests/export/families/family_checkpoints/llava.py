"""What llava checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.llava.processing_llava import LlavaProcessor

from family_checkpoints import FamilyCheckpoint, Parts, no_kinds, token_index


def _fitted(tiny: Any) -> dict[str, Any]:
    side = tiny.size[0]
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


#: What the processor counts a picture's tokens by.
COUNTED: dict[str, Any] = {
    "patch_size": 12, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1
}  # fmt: skip


def _processor(tiny: Any, parts: Parts) -> Any:
    return LlavaProcessor(**parts, **COUNTED)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250},
    picture="<image>\n",
    images="llava",
    processor=_processor,
    settings={"size": {"shortest_edge": 60}, "crop_size": {"height": 60, "width": 60}},
    repository="llava-hf/llava-1.5-7b-hf",
    fitted=_fitted,
    old=(no_kinds, token_index),
    quick=False,
)
