"""Codes of a quantised checkpoint as TensorRT reads them: signed, channels first, zeros as a shift of their own.

``export.surgeon.passes.rewrite_codes`` says what is to be written; here it is, one tensor after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.codes import FP8_BLOCK, Place, Rewrite
from luvc_export.core.files.safe_files import create, open_regular, scratch_folder

_FLOATS: dict[str, Any] = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16,
}  # fmt: skip


@contextmanager
def beside(folder: Path, weights: Sequence[Path], rewrites: Sequence[Rewrite]) -> Iterator[Path]:
    """The folder that a graph's outside weights lie in: ``folder``, or where some are rewritten, one beside it.

    Parsers read files next to the graph alone, so the other weights are linked there for as long as the block lasts.
    """
    if not rewrites:
        yield folder
        return
    with scratch_folder(folder / "codes") as scratch:
        for path in weights:
            (scratch / path.name).symlink_to(path.resolve())
        write(folder, scratch, rewrites)
        yield scratch


def write(folder: Path, output: Path, rewrites: Sequence[Rewrite]) -> None:
    """Write the weights that ``rewrites`` say, from files in ``folder``, to new files in ``output``."""
    for name in sorted({place.file for item in rewrites for place in item.places.values()}):
        with create(output / name) as file:
            for item in (item for item in rewrites if item.places["codes"].file == name):
                for part, values in rewritten(folder, item).items():
                    file.seek(item.places[part].offset)
                    file.write(np.ascontiguousarray(values).view(np.uint8).data)


def rewritten(folder: Path, item: Rewrite) -> dict[str, NDArray[Any]]:
    """Codes, scales and shift of a weight [K, N] as they are written."""
    channels, rows = item.shape
    kind = _FLOATS[item.scale_type]
    scales = _read(folder, item.sources["scales"]).view(kind).reshape(item.scale_shape)
    codes = _read(folder, item.sources["codes"])
    if item.precision:
        return {"codes": _widened(codes.view(ml_dtypes.float8_e4m3fn).reshape(rows, channels), scales, item.precision)}
    turned = np.ascontiguousarray(_apart(codes.reshape(rows, channels // 2)).T) ^ np.uint8(8)
    parts: dict[str, NDArray[Any]] = {"codes": turned[:, ::2] | turned[:, 1::2] << 4, "scales": scales.T}
    if "zeros" in item.sources:
        zeros = _apart(_read(folder, item.sources["zeros"]).reshape(rows, -1))[:, : channels // item.block]
        parts["shift"] = (scales.astype(np.float32) * (8 - zeros.astype(np.float32))).T.astype(kind)
    return parts


def _widened(numbers: NDArray[Any], scales: NDArray[Any], precision: str) -> NDArray[Any]:
    """FP8 [N, K] times scales, as weights [K, N]."""
    whole = scales.astype(np.float32)
    for axis, size in enumerate(numbers.shape):
        if whole.shape[axis] not in (1, size):
            whole = np.repeat(whole, FP8_BLOCK, axis).take(range(size), axis)
    return (numbers.astype(np.float32) * whole).T.astype(_FLOATS[precision])


def _apart(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)


def _read(folder: Path, place: Place) -> NDArray[np.uint8]:
    with open_regular(folder / place.file) as file:
        file.seek(place.offset)
        return np.frombuffer(file.read(place.bytes), np.uint8)
