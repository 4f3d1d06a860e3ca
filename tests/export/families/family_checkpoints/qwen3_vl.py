"""What qwen3_vl checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, still
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from family_checkpoints import FamilyCheckpoint, Json, Parts, plain_rope


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(Qwen3VLProcessor)(**parts, video_processor=Still())


def _interleaved(config: Json) -> None:
    plain_rope(config)
    text, kept = config["text_config"], ("mrope_interleaved", "mrope_section", "rope_type")
    text["rope_scaling"] = {name: text["rope_parameters"][name] for name in kept}


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image_pad|>": 250, "<|video_pad|>": 251, "<|vision_start|>": 252, "<|vision_end|>": 253},
    picture="<|vision_start|><|image_pad|><|vision_end|>",
    images="qwen2_vl",
    processor=_processor,
    settings={"patch_size": 8, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    repository="Qwen/Qwen3-VL-4B-Instruct",
    old_rope=_interleaved,
)
