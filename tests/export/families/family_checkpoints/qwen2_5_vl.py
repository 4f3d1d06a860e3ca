"""What qwen2_5_vl checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, still
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from family_checkpoints import FamilyCheckpoint, Parts, mrope, no_kinds, text_at_the_top


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(Qwen2_5_VLProcessor)(**parts, video_processor=Still())


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image_pad|>": 250, "<|video_pad|>": 251, "<|vision_start|>": 252, "<|vision_end|>": 253},
    picture="<|vision_start|><|image_pad|><|vision_end|>",
    images="qwen2_vl",
    processor=_processor,
    repository="Qwen/Qwen2.5-VL-3B-Instruct",
    old_rope=mrope,
    old=(no_kinds, text_at_the_top),
    on_openvino=True,
)
