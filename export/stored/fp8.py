"""FP8 as transformers' own ``fp8`` method stores it: E4M3 numbers, a scale for each block of 128 x 128 or one in all.

Layout: https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/finegrained_fp8.py,
``FP8Linear``: ``weight`` float8_e4m3fn [N, K] and ``weight_scale_inv`` fp32 [N / 128, K / 128], rounded up, or a single
number; ``activation_scale`` where activations are quantised by a fixed one (Ministral 3). A weight is code * scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from luvc_export.bundle.codes import FP8_BLOCK
from luvc_export.errors import CheckpointError
from luvc_export.export.stored import base

_SCALES = ("weight_scale_inv", "weight_scale")
_ACTIVATIONS = ("activation_scale", "input_scale")


def read(config: Mapping[str, Any], tensors: Mapping[str, base.StoredTensor], where: str) -> base.Stored:
    """See ``base.Reader``."""
    block = config.get("weight_block_size")
    if block is not None and block != [FP8_BLOCK, FP8_BLOCK]:
        raise CheckpointError(
            "FP8 checkpoints of these blocks are not read",
            where=where,
            got=f"weight_block_size {block}",
            expected=f"[{FP8_BLOCK}, {FP8_BLOCK}], or one scale a weight",
            fix="take the 16-bit checkpoint",
        )
    linears = [_linear(module, tail) for tail in _SCALES for module in base.modules(tensors, tail)]
    fixed = any(name.rpartition(".")[2] in _ACTIVATIONS for name in tensors)
    how = "by a fixed scale" if fixed else "as they come"
    return base.Stored("fp8", tuple(linears), (f"the checkpoint's makers round activations to FP8 {how}: not here",))


def _linear(module: base.Module, tail: str) -> base.StoredLinear:
    weight = module.part("weight", None, ("F8_E4M3",))
    scales = module.part(tail, None, base.FLOATS)
    if len(weight.shape) != 2:
        raise module.misfit("a quantised weight has not two axes", weight=weight)
    rows, channels = weight.shape
    blocks = -(-rows // FP8_BLOCK), -(-channels // FP8_BLOCK)
    if scales.shape not in ((), (1,), (1, 1)):
        module.part(tail, blocks, base.FLOATS)
    shape = scales.shape if scales.shape == blocks else (1, 1)
    parts = ("weight", tail, *filter(module.has, _ACTIVATIONS))
    return module.linear((rows, channels), 8, parts, partial(_read, weight, scales, shape))


def _read(weight: base.StoredTensor, scales: base.StoredTensor, shape: tuple[int, int]) -> base.StoredWeight:
    return base.StoredWeight(base.array(weight), base.array(scales).reshape(shape), None, 8, weight.shape[1])
