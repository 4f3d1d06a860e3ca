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
from luvc_export.export.stored.base import (
    AGAIN,
    FLOATS,
    Stored,
    StoredLinear,
    StoredTensor,
    StoredWeight,
    array,
    modules,
    part,
)

_SCALES = ("weight_scale_inv", "weight_scale")
_ACTIVATIONS = ("activation_scale", "input_scale")


def read(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], where: str) -> Stored:
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
    linears = [_linear(name, tail, tensors) for tail in _SCALES for name in modules(tensors, tail)]
    fixed = any(name.rpartition(".")[2] in _ACTIVATIONS for name in tensors)
    how = "by a fixed scale" if fixed else "as they come"
    return Stored("fp8", tuple(linears), (f"the checkpoint's makers round activations to FP8 {how}: not here",))


def _linear(name: str, tail: str, tensors: Mapping[str, StoredTensor]) -> StoredLinear:
    weight = part(tensors, name, "weight", None, ("F8_E4M3",))
    scales = part(tensors, name, tail, None, FLOATS)
    if len(weight.shape) != 2:
        got = f"weight {list(weight.shape)}"
        raise CheckpointError("a quantised weight has not two axes", where=name, got=got, fix=AGAIN)
    rows, channels = weight.shape
    blocks = -(-rows // FP8_BLOCK), -(-channels // FP8_BLOCK)
    if scales.shape not in ((), (1,), (1, 1)):
        part(tensors, name, tail, blocks, FLOATS)
    shape = scales.shape if scales.shape == blocks else (1, 1)
    sources = (
        f"{name}.weight",
        f"{name}.{tail}",
        *(key for one in _ACTIVATIONS if (key := f"{name}.{one}") in tensors),
    )
    return StoredLinear(name, (rows, channels), 8, sources, partial(_read, weight, scales, shape))


def _read(weight: StoredTensor, scales: StoredTensor, shape: tuple[int, int]) -> StoredWeight:
    return StoredWeight(array(weight), array(scales).reshape(shape), None, 8, weight.shape[1])
