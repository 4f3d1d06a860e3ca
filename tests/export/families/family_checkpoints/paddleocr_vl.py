"""What paddleocr_vl checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.paddleocr_vl.processing_paddleocr_vl import PaddleOCRVLProcessor

from family_checkpoints import FamilyCheckpoint, Json, Parts, no_kinds, scaled_rope


def _processor(tiny: Any, parts: Parts) -> Any:
    return PaddleOCRVLProcessor(**parts)


def _old(config: Json) -> None:
    """The text model's fields are the config's own, and the tower has its type."""
    config |= {**config.pop("text_config"), "model_type": config["model_type"]}
    config["vision_config"]["model_type"] = config["model_type"]


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|IMAGE_PLACEHOLDER|>": 250, "<|video_pad|>": 251, "<|IMAGE_START|>": 252, "<|IMAGE_END|>": 253},
    picture="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    images="paddleocr_vl",
    processor=_processor,
    settings={"patch_size": 8, "size": {"shortest_edge": 256, "longest_edge": 1048576}},
    repository="PaddlePaddle/PaddleOCR-VL",
    named={"image_token": "<|IMAGE_PLACEHOLDER|>"},
    old_rope=scaled_rope,
    old=(no_kinds, _old),
    quick=False,
    asked=("a cut-out part", "`OCR:`, `Table Recognition:`, `Formula Recognition:`, `Chart Recognition:`"),
)
