"""compressed-tensors, as llmcompressor writes it: whole numbers packed into words, or a byte each, and FP8.

Layout: https://github.com/vllm-project/compressed-tensors/tree/main/src/compressed_tensors/compressors; of
pack_quantized: ``weight_packed`` int32 [N, K * bits / 32] along the inputs, lowest bits first, half the range added;
``weight_scale`` [N, K / g], ``weight_shape`` [2], ``weight_zero_point`` int32 [N * bits / 32, K / g] packed along the
outputs, ``weight_g_idx`` [K]; of naive_quantized: ``weight`` int8 or float8_e4m3fn [N, K] with ``weight_scale`` and
``weight_zero_point`` int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from luvc_export.bundle.codes import FP8_BLOCK
from luvc_export.errors import CheckpointError
from luvc_export.export.stored import base

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_BITS = (4, 8)


def read(config: Mapping[str, Any], tensors: Mapping[str, base.StoredTensor], where: str) -> base.Stored:
    """See ``base.Reader``."""
    parts = config.get("config_groups")
    schemes = list(parts.values()) if isinstance(parts, dict) else []
    forms = {str(config.get("format", "dense"))}
    forms |= {str(one["format"]) for one in schemes if isinstance(one, dict) and one.get("format")}
    if unread := sorted(forms - {*_FORMATS}):
        raise CheckpointError(
            "compressed-tensors checkpoints of this format are not read",
            where=where,
            got=", ".join(unread),
            expected=", ".join(_FORMATS[:-2]),
            fix="take such a checkpoint, or the 16-bit one and luvc-export calibrate",
        )
    sparse = config.get("sparsity_config")
    if isinstance(sparse, dict) and sparse.get("format", "dense") != "dense":
        got = f"sparsity_config {sparse.get('format')}"
        raise CheckpointError("checkpoints with sparse tensors are not read", where=where, got=got, fix=base.AGAIN)
    stated = {_group_size(one, where) for one in schemes}
    linears = [_packed(module, stated) for module in base.modules(tensors, "weight_packed")]
    scaled = base.modules(tensors, "weight_scale")
    linears += [_plain(module, stated) for module in scaled if not module.has("weight_packed")]
    asked = [one.get("input_activations") for one in schemes if isinstance(one, dict)]
    notes: tuple[str, ...] = (
        ("the checkpoint's makers round activations to 8 bits as well: not here",) if any(asked) else ()
    )
    if config.get("kv_cache_scheme"):
        notes += ("the checkpoint's makers keep keys and values in 8 bits: not here",)
    return base.Stored("compressed-tensors", tuple(linears), notes)


def _group_size(scheme: Any, where: str) -> object:
    weights = scheme.get("weights") if isinstance(scheme, dict) else None
    if not isinstance(weights, dict):
        got = repr(scheme)[:80]
        raise CheckpointError("a group of the config says nothing of weights", where=f"{where}: config_groups", got=got)
    size = weights.get("group_size") or -1
    if isinstance(size, list | dict):
        raise CheckpointError(
            "the size of a group is a number",
            where=f"{where}: config_groups: weights: group_size",
            got=repr(size)[:80],
            expected="channels that share a scale, such as 128, or null",
            fix=base.AGAIN,
        )
    return size


def _stated(module: base.Module, channels: int, count: int, stated: set[object]) -> int:
    """Channels of a group, which must be one of the config's sizes (-1: a scale for the whole row)."""
    whole = module.groups(channels, count, None)
    return whole if count == 1 or whole in stated else module.groups(channels, count, next(iter(stated), None))


def _packed(module: base.Module, stated: set[object]) -> base.StoredLinear:
    weight = module.part("weight_packed", None, ("I32",))
    rows, channels = (int(size) for size in base.array(module.part("weight_shape", (2,), ("I64", "I32"))))
    bits = next(
        (bits for bits in _BITS if weight.shape == (rows, channels * bits // 32) and not channels * bits % 32), 0
    )
    if not bits or min(rows, channels) < 1:
        raise CheckpointError(
            "a packed weight has not the size that its shape says",
            where=f"{weight.file}: {module.name}.weight_packed",
            got=f"{list(weight.shape)} for a weight_shape of {[rows, channels]}",
            expected="4 or 8 bits a number, and whole words a row",
            fix=base.AGAIN,
        )
    scales = module.part("weight_scale", None, base.FLOATS)
    count = scales.shape[-1] if scales.shape else 0
    module.part("weight_scale", (rows, count), base.FLOATS)
    group = _stated(module, channels, count, stated)
    parts = {"weight_packed": weight, "weight_scale": scales}
    if module.has("weight_zero_point"):
        parts["weight_zero_point"] = module.part("weight_zero_point", (-(-rows * bits // 32), count), ("I32",))
    if module.has("weight_g_idx"):
        parts["weight_g_idx"] = module.part("weight_g_idx", (channels,), ("I32", "I64"))
    read = partial(_read_packed, module.name, parts, bits, group)
    return module.linear((rows, channels), bits, (*parts, "weight_shape"), read)


def _read_packed(name: str, parts: dict[str, base.StoredTensor], bits: int, group: int) -> base.StoredWeight:
    codes, zeros, order = base.array(parts["weight_packed"]).view(np.uint8), None, None
    if "weight_zero_point" in parts:
        words = np.ascontiguousarray(base.array(parts["weight_zero_point"]).T).view(np.uint8)
        zeros = np.ascontiguousarray(base.unpacked(words, bits)[:, : len(codes)].T)
    if "weight_g_idx" in parts and (index := base.array(parts["weight_g_idx"])).min(initial=0) >= 0:  # -1: never set
        codes, order = base.in_groups(name, codes, bits, group, index)
    return base.StoredWeight(codes, base.array(parts["weight_scale"]), zeros, bits, group, order)


def _plain(module: base.Module, stated: set[object]) -> base.StoredLinear:
    weight = module.part("weight", None, ("I8", "F8_E4M3"))
    scales = module.part("weight_scale", None, base.FLOATS)
    if len(weight.shape) != 2 or len(scales.shape) > 2:
        raise module.misfit("a quantised weight has sizes that cannot be", weight=weight, weight_scale=scales)
    rows, channels = weight.shape
    tall, *wide = scales.shape or (1,)
    shape = tall, wide[0] if wide else 1
    real = weight.dtype == "F8_E4M3"
    blocks = -(-rows // FP8_BLOCK), -(-channels // FP8_BLOCK)
    fits = shape in ((1, 1), (rows, 1)) or (shape == blocks if real else shape[0] == rows)
    if not fits:
        module.part("weight_scale", (rows, 1), base.FLOATS)
    group = channels if real else _stated(module, channels, shape[1], stated)
    parts = {"weight": weight, "weight_scale": scales}
    if module.has("weight_zero_point") and not real:
        parts["weight_zero_point"] = module.part("weight_zero_point", scales.shape, ("I8",))
    others = filter(module.has, ("weight_zero_point", "input_scale", "input_zero_point"))
    return module.linear(
        (rows, channels), 8, dict.fromkeys((*parts, *others)), partial(_read_plain, parts, shape, group)
    )


def _read_plain(parts: dict[str, base.StoredTensor], shape: tuple[int, int], group: int) -> base.StoredWeight:
    values, scales, zeros = base.array(parts["weight"]), base.array(parts["weight_scale"]).reshape(shape), None
    if values.dtype != np.int8:
        return base.StoredWeight(values, scales, None, 8, group)
    rows = len(values)
    scales = np.broadcast_to(scales, (rows, scales.shape[1]))
    if "weight_zero_point" in parts:
        stored = base.array(parts["weight_zero_point"]).reshape(shape)
        zeros = np.broadcast_to(stored.view(np.uint8) ^ np.uint8(128), scales.shape)
    return base.StoredWeight(base.packed(values.view(np.uint8) ^ np.uint8(128), 8), scales, zeros, 8, group)
