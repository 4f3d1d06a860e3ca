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
from luvc_export.export.stored.base import (
    AGAIN,
    FLOATS,
    Stored,
    StoredLinear,
    StoredTensor,
    StoredWeight,
    array,
    groups,
    in_groups,
    modules,
    packed,
    part,
    unpacked,
)

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_BITS = (4, 8)


def read(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], where: str) -> Stored:
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
        raise CheckpointError("checkpoints with sparse tensors are not read", where=where, got=got, fix=AGAIN)
    stated = {_group_size(one, where) for one in schemes}
    linears = [_packed(name, tensors, stated) for name in modules(tensors, "weight_packed")]
    for name in modules(tensors, "weight_scale"):
        if f"{name}.weight_packed" not in tensors:
            linears.append(_plain(name, tensors, stated))
    asked = [one.get("input_activations") for one in schemes if isinstance(one, dict)]
    notes: tuple[str, ...] = (
        ("the checkpoint's makers round activations to 8 bits as well: not here",) if any(asked) else ()
    )
    if config.get("kv_cache_scheme"):
        notes += ("the checkpoint's makers keep keys and values in 8 bits: not here",)
    return Stored("compressed-tensors", tuple(linears), notes)


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
            fix=AGAIN,
        )
    return size


def _stated(name: str, channels: int, count: int, stated: set[object]) -> int:
    """Channels of a group, which must be one of the config's sizes (-1: a scale for the whole row)."""
    whole = groups(name, channels, count, None)
    return whole if count == 1 or whole in stated else groups(name, channels, count, next(iter(stated), None))


def _packed(name: str, tensors: Mapping[str, StoredTensor], stated: set[object]) -> StoredLinear:
    weight = part(tensors, name, "weight_packed", None, ("I32",))
    rows, channels = (int(size) for size in array(part(tensors, name, "weight_shape", (2,), ("I64", "I32"))))
    bits = next(
        (bits for bits in _BITS if weight.shape == (rows, channels * bits // 32) and not channels * bits % 32), 0
    )
    if not bits or min(rows, channels) < 1:
        raise CheckpointError(
            "a packed weight has not the size that its shape says",
            where=f"{weight.file}: {name}.weight_packed",
            got=f"{list(weight.shape)} for a weight_shape of {[rows, channels]}",
            expected="4 or 8 bits a number, and whole words a row",
            fix=AGAIN,
        )
    scales = part(tensors, name, "weight_scale", None, FLOATS)
    count = scales.shape[-1] if scales.shape else 0
    part(tensors, name, "weight_scale", (rows, count), FLOATS)
    group = _stated(name, channels, count, stated)
    parts = {"weight_packed": weight, "weight_scale": scales}
    if f"{name}.weight_zero_point" in tensors:
        parts["weight_zero_point"] = part(tensors, name, "weight_zero_point", (-(-rows * bits // 32), count), ("I32",))
    if f"{name}.weight_g_idx" in tensors:
        parts["weight_g_idx"] = part(tensors, name, "weight_g_idx", (channels,), ("I32", "I64"))
    sources = (*(f"{name}.{tail}" for tail in parts), f"{name}.weight_shape")
    return StoredLinear(name, (rows, channels), bits, sources, partial(_read_packed, name, parts, bits, group))


def _read_packed(name: str, parts: dict[str, StoredTensor], bits: int, group: int) -> StoredWeight:
    codes, zeros, order = array(parts["weight_packed"]).view(np.uint8), None, None
    if "weight_zero_point" in parts:
        words = np.ascontiguousarray(array(parts["weight_zero_point"]).T).view(np.uint8)
        zeros = np.ascontiguousarray(unpacked(words, bits)[:, : len(codes)].T)
    if "weight_g_idx" in parts and (index := array(parts["weight_g_idx"])).min(initial=0) >= 0:  # -1: never set
        codes, order = in_groups(name, codes, bits, group, index)
    return StoredWeight(codes, array(parts["weight_scale"]), zeros, bits, group, order)


def _plain(name: str, tensors: Mapping[str, StoredTensor], stated: set[object]) -> StoredLinear:
    weight = part(tensors, name, "weight", None, ("I8", "F8_E4M3"))
    scales = part(tensors, name, "weight_scale", None, FLOATS)
    if len(weight.shape) != 2 or len(scales.shape) > 2:
        got = f"weight {list(weight.shape)}, weight_scale {list(scales.shape)}"
        raise CheckpointError("a quantised weight has sizes that cannot be", where=name, got=got, fix=AGAIN)
    rows, channels = weight.shape
    tall, *wide = scales.shape or (1,)
    shape = tall, wide[0] if wide else 1
    real = weight.dtype == "F8_E4M3"
    blocks = -(-rows // FP8_BLOCK), -(-channels // FP8_BLOCK)
    fits = shape in ((1, 1), (rows, 1)) or (shape == blocks if real else shape[0] == rows)
    if not fits:
        part(tensors, name, "weight_scale", (rows, 1), FLOATS)
    group = channels if real else _stated(name, channels, shape[1], stated)
    parts = {"weight": weight, "weight_scale": scales}
    if f"{name}.weight_zero_point" in tensors and not real:
        zero = tensors[f"{name}.weight_zero_point"]
        parts["weight_zero_point"] = part(tensors, name, "weight_zero_point", zero.shape[:0] or scales.shape, ("I8",))
    sources = tuple(f"{name}.{tail}" for tail in parts)
    sources += tuple(
        source
        for tail in ("weight_zero_point", "input_scale", "input_zero_point")
        if (source := f"{name}.{tail}") in tensors and source not in sources
    )
    return StoredLinear(name, (rows, channels), 8, sources, partial(_read_plain, parts, shape, group))


def _read_plain(parts: dict[str, StoredTensor], shape: tuple[int, int], group: int) -> StoredWeight:
    values, scales, zeros = array(parts["weight"]), array(parts["weight_scale"]).reshape(shape), None
    if values.dtype != np.int8:
        return StoredWeight(values, scales, None, 8, group)
    rows = len(values)
    scales = np.broadcast_to(scales, (rows, scales.shape[1]))
    if "weight_zero_point" in parts:
        stored = array(parts["weight_zero_point"]).reshape(shape)
        zeros = np.broadcast_to(stored.view(np.uint8) ^ np.uint8(128), scales.shape)
    return StoredWeight(packed(values.view(np.uint8) ^ np.uint8(128), 8), scales, zeros, 8, group)
