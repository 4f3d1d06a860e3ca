"""What minicpmv4_7 checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, still
from transformers.models.minicpmv4_7.processing_minicpmv4_7 import MiniCPMV4_7Processor

from family_checkpoints import FamilyCheckpoint, Parts

MARKS = {"image_id_start": "<image_id>", "image_id_end": "</image_id>"}
MARKS |= {"image": "<|image_pad|>", "video": "<|video_pad|>", "image_start": "<image>", "image_end": "</image>"}
MARKS |= {"slice_start": "<slice>", "slice_end": "</slice>"}


class StillFrames(Still):
    slice_mode, downsample_mode = False, "16x"


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(MiniCPMV4_7Processor)(**parts, video_processor=StillFrames())


CHECKPOINT = FamilyCheckpoint(
    tokens={token: 248 + at for at, token in enumerate(MARKS.values())},
    picture="<|image_pad|>\n",
    images="minicpmv4_6",
    processor=_processor,
    settings={"patch_size": 4, "slice_mode": False, "scale_resolution": 78},
    named={f"{name}_token": token for name, token in MARKS.items()} | {"pad_token": "<t0>"},
    fitted=lambda tiny: {},
    quick=False,
)
