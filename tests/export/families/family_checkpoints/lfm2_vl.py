"""What lfm2_vl checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Lfm2VlPictures, still
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

from family_checkpoints import FamilyCheckpoint, Parts, few_blocks


def _processor(tiny: Any, parts: Parts) -> Any:
    return still(Lfm2VlProcessor)(**parts | {"image_processor": Lfm2VlPictures(parts["image_processor"])})


CHECKPOINT = FamilyCheckpoint(
    tokens={
        "<image>": 250,
        "<|image_start|>": 252,
        "<|image_end|>": 253,
        "<|img_row_1_col_1|>": 233,
        "<|img_row_1_col_2|>": 234,
        "<|img_row_2_col_1|>": 235,
        "<|img_row_2_col_2|>": 236,
        "<|img_thumbnail|>": 254,
    },
    picture="<image>",
    images="siglip2",
    processor=_processor,
    settings={"patch_size": 8, "do_resize": False},
    repository="LiquidAI/LFM2-VL-450M",
    fitted=lambda tiny: {"patch_size": tiny.config.vision_config.patch_size},
    two_tiles={"tile_size": 64},
    small=few_blocks,
    old=(),
    on_openvino=True,
)
