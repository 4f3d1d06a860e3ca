"""What qianfan_ocr checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.qianfan_ocr.processing_qianfan_ocr import QianfanOCRProcessor

from family_checkpoints import FamilyCheckpoint, Parts
from family_checkpoints.internvl import CHECKPOINT as INTERNVL


def _processor(tiny: Any, parts: Parts) -> Any:
    return QianfanOCRProcessor(**parts, image_seq_length=tiny.plan.units)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<IMG_CONTEXT>": 250, "<img>": 252, "</img>": 253},
    picture="<image>\n",
    images="got_ocr2",
    processor=_processor,
    settings=INTERNVL.settings,
    named={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"},
    two_tiles=INTERNVL.two_tiles,
    quick=False,
    asked=("a page as Markdown", "`Parse this document to Markdown.`"),
)
