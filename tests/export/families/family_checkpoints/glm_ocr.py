"""What glm_ocr checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, still
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor

from family_checkpoints import FamilyCheckpoint, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(Glm46VProcessor)(**parts, video_processor=Still())


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image|>": 250, "<|video|>": 251, "<|begin_of_image|>": 252, "<|end_of_image|>": 253},
    picture="<|begin_of_image|><|image|><|end_of_image|>",
    images="glm46v",
    processor=_processor,
    settings={"patch_size": 8, "size": {"shortest_edge": 256, "longest_edge": 2**20}},
    on_openvino=True,
    quick=False,
    asked=(
        "text, a table, a formula of a cut-out part",
        "`Text Recognition:`, `Table Recognition:`, `Formula Recognition:`",
    ),
)
