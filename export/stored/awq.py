"""AWQ as AutoAWQ stores it: four bits, packed along the outputs in an order of its own, zeros as they are.

Layout: https://github.com/casper-hansen/AutoAWQ/blob/main/awq/modules/linear/gemm.py, ``WQLinear_GEMM.from_linear``:
``qweight`` int32 [K, N / 8], ``qzeros`` int32 [K / g, N / 8], ``scales`` fp16 [K / g, N]; bits 4i of a word hold column
8c + ``ORDER[i]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import CheckpointError
from luvc_export.export.stored.base import (
    AGAIN,
    FLOATS,
    Stored,
    StoredLinear,
    StoredTensor,
    StoredWeight,
    array,
    groups,
    modules,
    packed,
    part,
)

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_BITS, _IN_WORD = 4, 8


def read(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], where: str) -> Stored:
    """See ``base.Reader``."""
    bits, version = config.get("bits", config.get("w_bit", _BITS)), str(config.get("version", "gemm")).lower()
    if bits != _BITS or version != "gemm":
        raise CheckpointError(
            "AWQ checkpoints of this kind are not read",
            where=where,
            got=f"{bits} bits, version {version}",
            expected="4 bits, version gemm",
            fix="take the gemm checkpoint, or the 16-bit one and luvc-export calibrate --precision q4",
        )
    stated = config.get("group_size", config.get("q_group_size"))
    return Stored("awq", tuple(_linear(name, tensors, stated) for name in modules(tensors, "qweight")))


def _linear(name: str, tensors: Mapping[str, StoredTensor], stated: object) -> StoredLinear:
    weight = part(tensors, name, "qweight", None, ("I32",))
    scales = part(tensors, name, "scales", None, FLOATS)
    if len(weight.shape) != 2 or len(scales.shape) != 2:
        got = f"qweight {list(weight.shape)}, scales {list(scales.shape)}"
        raise CheckpointError("a quantised weight has not two axes", where=name, got=got, fix=AGAIN)
    channels, words = weight.shape
    count, columns = scales.shape[0], words * _IN_WORD
    part(tensors, name, "scales", (count, columns), FLOATS)
    zeros = part(tensors, name, "qzeros", (count, words), ("I32",))
    group = groups(name, channels, count, stated)
    sources = tuple(f"{name}.{tail}" for tail in ("qweight", "qzeros", "scales"))
    return StoredLinear(name, (columns, channels), _BITS, sources, partial(_read, weight, zeros, scales, group))


def _read(weight: StoredTensor, zeros: StoredTensor, scales: StoredTensor, group: int) -> StoredWeight:
    codes = packed(_columns(array(weight)).T, _BITS)
    return StoredWeight(codes, np.ascontiguousarray(array(scales).T), _columns(array(zeros)).T, _BITS, group)


def _columns(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Codes [rows, 8 * words] of words [rows, words], columns in their own order."""
    codes = np.empty((*words.shape, _IN_WORD), np.uint8)
    for place, column in enumerate(ORDER):
        codes[..., column] = words >> (_BITS * place) & 15
    return codes.reshape(len(words), -1)
