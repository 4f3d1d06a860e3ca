"""A site's decision written to the shelf, in the layout its operator wants; what insertion needs of it stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.calibration.quantise.blocks import stored_scales
from luvc_export.calibration.quantise.rounding import Rounded
from luvc_export.calibration.quantise.shelf import Shelf
from luvc_export.precision import QuantisedPrecision

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Placed:
    """How one site is quantised; its weight and scales are on the shelf under ``NAME.weight_*``.

    Attributes:
        rows: K of the weight.
        columns: N.
        block: Rows that share a scale; None for a scale a column or one in all.
        factor: What activations are divided by [K]; None for nothing.
        range: Largest magnitude of the divided activations that is kept; None where they are not quantised by range.
    """

    rows: int
    columns: int
    block: int | None
    factor: Floats | None
    range: float | None


def place(
    shelf: Shelf,
    name: str,
    precision: QuantisedPrecision,
    weight: Rounded,
    factor: Floats | None,
    top: float | None,
    dtype: type[np.generic],
) -> Placed:
    """Write ``weight`` (``factor`` already in it) for ``precision``; scales in ``dtype``, NVFP4's as it has them."""
    rows, columns = weight.values.shape
    values: NDArray[Any] = weight.values
    scale: NDArray[Any] = weight.scale.astype(dtype)
    if precision.name == "q8":
        # Unsigned around 128: pairs of products with signed weights overflow 16 bits on CPUs without VNNI.
        values, scale = (values.astype(np.int16) + 128).astype(np.uint8), weight.scale
    elif precision.name in ("q4", "q4f16"):
        # As MatMulNBits reads them: two a byte, the even row low, [N, K / block, block / 2], 8 standing for zero.
        codes = (values.astype(np.int8).T + 8).astype(np.uint8).reshape(columns, -1, weight.block or rows)
        values, scale = codes[:, :, ::2] | codes[:, :, 1::2] << 4, np.ascontiguousarray(scale.T)
    elif weight.tensor is not None:
        scale = stored_scales(weight)
        whole = np.array(weight.tensor, np.float32)
        shelf.put(f"{name}.weight_global_scale", lambda: ir.tensor(whole))
    shelf.put(f"{name}.weight_quantized", lambda: ir.tensor(values))
    shelf.put(f"{name}.weight_scale", lambda: ir.tensor(scale))
    return Placed(rows, columns, weight.block, factor, top)
