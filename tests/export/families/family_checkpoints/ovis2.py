"""What ovis2 checkpoints have beside their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.models.ovis2.processing_ovis2 import Ovis2Processor

from family_checkpoints import FamilyCheckpoint, Parts

MARKS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def _processor(tiny: Any, parts: Parts) -> Any:
    return Ovis2Processor(**parts, image_seq_length=tiny.plan.units)


def _odd(config: Any, kind: str, usual: Callable[[Any, str], Any]) -> Any:
    if kind == "narrow":
        config.hidden_size, config.vocab_size = 72, 307  # its own, beside the text model's
    return usual(config, kind)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 249, **{mark: 250 + at for at, mark in enumerate(MARKS)}},
    picture="<image>\n",
    images="ovis2",
    processor=_processor,
    settings={"size": {"height": 64, "width": 64}},
    odd=_odd,
    quick=False,
)
