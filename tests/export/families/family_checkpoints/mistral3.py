"""What mistral3 checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_processors import beside_pillow

from family_checkpoints import FamilyCheckpoint, Parts, no_kinds, scaled_rope, token_index


def _processor(tiny: Any, parts: Parts) -> Any:
    return beside_pillow("pixtral", "PixtralProcessor")(**parts, patch_size=8, spatial_merge_size=2)


CHECKPOINT = FamilyCheckpoint(
    tokens={"[IMG]": 250, "[IMG_BREAK]": 251, "[IMG_END]": 252},
    picture="[IMG]",
    images="pixtral",
    processor=_processor,
    settings={"patch_size": 8, "size": {"longest_edge": 256}},
    repository="mistralai/Ministral-3-3B-Instruct-2512-BF16",
    fitted=lambda tiny: {},
    old_rope=scaled_rope,
    old=(no_kinds, token_index),
    on_openvino=True,
    quick=False,
)
