"""What paligemma checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor

from family_checkpoints import FamilyCheckpoint, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    parts["image_processor"].image_seq_length = tiny.plan.units
    return PaliGemmaProcessor(**parts)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250, "<bos>": 251},
    picture="<image>",
    images="siglip",
    processor=_processor,
    settings={"size": {"height": 48, "width": 48}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    repository="google/paligemma-3b-pt-224",
    bos=True,
    named={"image_token": "<image>"},
)
