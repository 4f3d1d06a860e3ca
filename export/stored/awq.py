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
from luvc_export.export.stored import base

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_BITS, _IN_WORD = 4, 8


def read(config: Mapping[str, Any], tensors: Mapping[str, base.StoredTensor], where: str) -> base.Stored:
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
    return base.Stored("awq", tuple(_linear(module, stated) for module in base.modules(tensors, "qweight")))


def _linear(module: base.Module, stated: object) -> base.StoredLinear:
    weight = module.part("qweight", None, ("I32",))
    scales = module.part("scales", None, base.FLOATS)
    if len(weight.shape) != 2 or len(scales.shape) != 2:
        raise module.misfit("a quantised weight has not two axes", qweight=weight, scales=scales)
    channels, words = weight.shape
    count, columns = scales.shape[0], words * _IN_WORD
    module.part("scales", (count, columns), base.FLOATS)
    parts = {"qweight": weight, "qzeros": module.part("qzeros", (count, words), ("I32",)), "scales": scales}
    read = partial(_read, parts, module.groups(channels, count, stated))
    return module.linear((columns, channels), _BITS, parts, read)


def _read(parts: Mapping[str, base.StoredTensor], group: int) -> base.StoredWeight:
    weight, zeros, scales = (base.array(part) for part in parts.values())
    codes = base.packed(_columns(weight).T, _BITS)
    return base.StoredWeight(codes, np.ascontiguousarray(scales.T), _columns(zeros).T, _BITS, group)


def _columns(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Codes [rows, 8 * words] of words [rows, words], columns in their own order."""
    codes = np.empty((*words.shape, _IN_WORD), np.uint8)
    for place, column in enumerate(ORDER):
        codes[..., column] = words >> (_BITS * place) & 15
    return codes.reshape(len(words), -1)
