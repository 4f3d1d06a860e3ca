"""What granite_docling checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.granite_docling.processing_granite_docling import GraniteDoclingProcessor

from family_checkpoints import FamilyCheckpoint, Parts, few_blocks

LABELS = {f"<row_{row}_col_{column}>": 230 + 2 * row + column for row in (1, 2) for column in (1, 2)}


def _processor(tiny: Any, parts: Parts) -> Any:
    return GraniteDoclingProcessor(**parts, image_seq_len=tiny.plan.units)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250, "<fake_token_around_image>": 251, "<global-img>": 252, **LABELS},
    picture="<image>",
    images="granite_docling",
    processor=_processor,
    settings={"crop_to_patches": False, "size": {"height": 64, "width": 64}},
    two_tiles={"crop_to_patches": True, "min_patches": 1, "max_patches": 2},
    small=few_blocks,
    on_openvino=True,
    quick=False,
    asked=("a page as DocTags", "`<doclang>`"),
)
