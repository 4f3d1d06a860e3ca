"""What lighton_ocr checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.lighton_ocr.processing_lighton_ocr import LightOnOcrProcessor

from family_checkpoints import FamilyCheckpoint, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    return LightOnOcrProcessor(**parts, patch_size=8, spatial_merge_size=2)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image_pad|>": 250, "<|vision_pad|>": 251, "<|vision_end|>": 252},
    picture="<|image_pad|>",
    images="pixtral",
    processor=_processor,
    settings={"patch_size": 8, "size": {"longest_edge": 256}},
    named={
        "image_token": "<|image_pad|>",
        "image_break_token": "<|vision_pad|>",
        "image_end_token": "<|vision_end|>",
    },
    fitted=lambda tiny: {},
    quick=False,
    asked=("a page as Markdown", "none on the card, the picture alone; `--temperature 0.2 --top-p 0.9`"),
)
