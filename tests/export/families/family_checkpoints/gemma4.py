"""What gemma4 checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import Still, beside_pillow, still

from family_checkpoints import FamilyCheckpoint, Parts


def _processor(tiny: Any, parts: Parts) -> Any:
    kind = still(beside_pillow("gemma4", "Gemma4Processor"))
    return kind(**parts, video_processor=Still(), feature_extractor=Still())


CHECKPOINT = FamilyCheckpoint(
    tokens={"<|image|>": 250, "<|video|>": 251, "<|image>": 252, "<image|>": 253, "<|audio|>": 254, "<bos>": 255},
    picture="<|image|>",
    images="gemma4",
    processor=_processor,
    settings={"patch_size": 4, "max_soft_tokens": 70, "do_resize": False},
    video="<|video|>",
    bos=True,
    named={
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio|>",
        "eoa_token": "<|audio|>",
    },
    fitted=lambda tiny: {"patch_size": tiny.config.vision_config.patch_size},
)
