"""What ovis2 checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.ovis2.processing_ovis2 import Ovis2Processor

from family_checkpoints import FamilyCheckpoint, Parts

MARKS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def _processor(tiny: Any, parts: Parts) -> Any:
    return Ovis2Processor(**parts, image_seq_length=tiny.plan.units)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 249, **{mark: 250 + at for at, mark in enumerate(MARKS)}},
    picture="<image>\n",
    images="ovis2",
    processor=_processor,
    settings={"size": {"height": 64, "width": 64}},
)
