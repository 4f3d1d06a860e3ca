"""What qwen2_vl checkpoints have beside their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from family_processors import Still, still
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from family_checkpoints import FamilyCheckpoint, Parts, mrope, no_kinds, text_at_the_top


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(Qwen2VLProcessor)(**parts, video_processor=Still())


def _odd(config: Any, kind: str, usual: Callable[[Any, str], Any]) -> Any:
    if kind == "narrow":
        config.vision_config.hidden_size = 72  # of what the merger gives
    return usual(config, kind)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image_pad|>": 250, "<|video_pad|>": 251, "<|vision_start|>": 252, "<|vision_end|>": 253},
    picture="<|vision_start|><|image_pad|><|vision_end|>",
    images="qwen2_vl",
    processor=_processor,
    repository="Qwen/Qwen2-VL-2B-Instruct",
    old_rope=mrope,
    old=(no_kinds, text_at_the_top),
    odd=_odd,
    quick=False,
)
