"""What qwen3_5 checkpoints have beside their weights: Qwen3-VL's, published since transformers 5."""

from __future__ import annotations

from dataclasses import replace

from family_checkpoints import qwen3_vl

CHECKPOINT = replace(qwen3_vl.CHECKPOINT, repository=None, of_bytes=True, quick=False, on_openvino=True)
