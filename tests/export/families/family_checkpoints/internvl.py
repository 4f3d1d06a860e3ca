"""What internvl checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, still
from transformers.models.internvl.processing_internvl import InternVLProcessor

from family_checkpoints import FamilyCheckpoint, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(InternVLProcessor)(**parts, video_processor=Still(), image_seq_length=tiny.plan.units)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<IMG_CONTEXT>": 250, "<video>": 251, "<img>": 252, "</img>": 253},
    picture="<IMG_CONTEXT>\n",
    images="got_ocr2",
    processor=_processor,
    settings={
        "crop_to_patches": False,
        "size": {"height": 64, "width": 64},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    repository="OpenGVLab/InternVL3-1B-hf",
    video="<video>\n",
    named={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    two_tiles={"crop_to_patches": True, "min_patches": 1, "max_patches": 2},
    on_openvino=True,
)
