"""What cosmos3_edge checkpoints have beside their weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from family_processors import Still, still
from transformers.models.cosmos3_edge.processing_cosmos3_edge import Cosmos3EdgeProcessor

from family_checkpoints import Parts
from family_checkpoints.qwen3_vl import CHECKPOINT as QWEN


def _processor(tiny: Any, parts: Parts) -> Any:
    kind = still(Cosmos3EdgeProcessor)
    kind.return_mm_token_type_ids = True  # which its model asks for
    return kind(**parts, video_processor=Still())


CHECKPOINT = replace(
    QWEN,
    images="cosmos3_edge",
    processor=_processor,
    settings={"patch_size": 8, "size": {"shortest_edge": 256, "longest_edge": 2**20}},
    repository=None,
    quick=False,
)
