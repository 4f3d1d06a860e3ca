"""The C ABI of plugins/include/luvc in ctypes: version, codes and the records that functions take."""

from __future__ import annotations

import ctypes

ABI_MAJOR, ABI_MINOR = 2, 0
WORKSPACE_ALIGNMENT = 16
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int32": 3, "int64": 4}
DEVICES = {"cpu": 0, "cuda": 1}
NO_CUDA, CUDA_ERROR = 12, 13


class PruneShape(ctypes.Structure):
    """``luvc_spectrum_prune_shape``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("groups", "tokens", "channels", "frequencies", "keep")),
        *((name, ctypes.c_int32) for name in ("dtype", "weight_dtype", "index_dtype", "score")),
        ("epsilon", ctypes.c_float),
    )


class PayloadRecord(ctypes.Structure):
    """``luvc_payload``."""

    _fields_ = (
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("planes", ctypes.c_int64),
        ("row_bytes", ctypes.c_int64),
    )


class PruneTensors(ctypes.Structure):
    """``luvc_spectrum_prune_tensors``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "norm_weight", "basis", "kept_values", "indices", "scores")),
        ("payloads", ctypes.POINTER(PayloadRecord)),
        ("payload_count", ctypes.c_int32),
        ("places", ctypes.c_void_p),
    )


class MergeShape(ctypes.Structure):
    """``luvc_orthogonal_merge_shape``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "position_planes")),
        *((name, ctypes.c_int64) for name in ("removed_columns", "removed_rows")),
        *((name, ctypes.c_int32) for name in ("dtype", "padded")),
    )


class MergeTensors(ctypes.Structure):
    """``luvc_orthogonal_merge_tensors``."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("values", "sizes", "positions"),
            *("merged_values", "merged_sizes", "merged_positions", "merged_into"),
        )
    )
