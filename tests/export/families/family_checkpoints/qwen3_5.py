"""What qwen3_5 checkpoints have beside their weights: Qwen3-VL's, published since transformers 5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from family_checkpoints import qwen3_vl


def _small(config: Any) -> Any:
    config.vision_config.depth = 2
    return config


CHECKPOINT = replace(qwen3_vl.CHECKPOINT, repository=None, of_bytes=True, small=_small, on_openvino=True)
