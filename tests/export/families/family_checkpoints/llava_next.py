"""What llava_next checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from family_checkpoints import FamilyCheckpoint, Parts, no_kinds, token_index
from family_checkpoints.llava import CHECKPOINT as LLAVA
from family_checkpoints.llava import COUNTED


def _processor(tiny: Any, parts: Parts) -> Any:
    return LlavaNextProcessor(**parts, **COUNTED)


CHECKPOINT = FamilyCheckpoint(
    tokens=LLAVA.tokens,
    picture=LLAVA.picture,
    images="llava_next",
    processor=_processor,
    settings={**LLAVA.settings, "image_grid_pinpoints": [[60, 60], [60, 120], [120, 60]]},
    repository="llava-hf/llava-v1.6-mistral-7b-hf",
    fitted=LLAVA.fitted,
    two_tiles={},
    old=(no_kinds, token_index),
    cuts_always="every",
    quick=False,
)
