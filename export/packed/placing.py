"""Write quantised weights as products read them: codes are moved, never widened, one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.core.element_types import BY_PRECISION
from luvc_export.core.files.safe_files import create
from luvc_export.errors import CheckpointError
from luvc_export.export.stored.base import StoredLinear, StoredWeight, packed

FILE = "weights.stored"
ALIGNMENT = 4096
#: Blocks that MatMulNBits takes (onnxruntime's page of its own operators), those that other targets take too first.
BLOCKS = (128, 64, 32, 16, 256)

_ARRAYS: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Placed:
    """One weight [N, K] in the file.

    Attributes:
        shape: [N, K].
        bits: Of a code.
        block: Channels that share a scale; None for FP8, whose scales have the shape that they are stored in.
        codes: As MatMulNBits reads them, uint8 [N, K / block, block * bits / 8]; of FP8 float8_e4m3fn [N, K].
        scales: In the bundle's arithmetic [N, K / block].
        zeros: uint8 [N, K / block * bits / 8], rounded up; None where all are half the range.
        order: int32 [K], see ``StoredWeight``.
        bytes: Of codes, scales and zeros.
    """

    shape: tuple[int, int]
    bits: int
    block: int | None
    codes: ir.ExternalTensor
    scales: ir.ExternalTensor
    zeros: ir.ExternalTensor | None
    order: NDArray[np.int32] | None
    bytes: int

    @property
    def kind(self) -> str:
        """int4, int8 or fp8."""
        return "fp8" if self.block is None else f"int{self.bits}"


def place(
    folder: Path, linears: Mapping[str, StoredLinear], dtype: str, progress: Callable[[float], None]
) -> dict[str, Placed]:
    """Write every weight of ``linears`` to ``folder / FILE``.

    Args:
        folder: The bundle's.
        linears: Quantised modules by the name that the model has for their weight.
        dtype: fp32, fp16 or bf16: the bundle's arithmetic.
        progress: Told the fraction done.

    Raises:
        CheckpointError: A group that no block divides, or scales that ``dtype`` cannot hold.
    """
    placed: dict[str, Placed] = {}
    with create(folder / FILE) as file:

        def put(name: str, values: NDArray[Any], kind: ir.DataType) -> ir.ExternalTensor:
            offset = -(-file.tell() // ALIGNMENT) * ALIGNMENT
            file.seek(offset)
            file.write(np.ascontiguousarray(values).view(np.uint8).data)
            return ir.ExternalTensor(FILE, offset, values.nbytes, kind, shape=ir.Shape(values.shape), name=name)

        for number, (name, linear) in enumerate(sorted(linears.items())):
            weight = linear.read()
            scales = _scales(name, weight, dtype)
            rows, channels = linear.shape
            kind = ir.DataType.FLOAT if weight.real else ir.DataType(BY_PRECISION[dtype].onnx)
            block, codes, zeros = None, weight.codes, None
            if not weight.real:
                block = block_of(name, weight.group)
                times = weight.group // block
                codes = codes.reshape(rows, channels // block, block * weight.bits // 8)
                scales = np.repeat(scales, times, 1)
                half = 1 << (weight.bits - 1)
                if weight.zeros is not None and np.any(weight.zeros != half):
                    zeros = put(
                        f"{name}.zeros", packed(np.repeat(weight.zeros, times, 1), weight.bits), ir.DataType.UINT8
                    )
            stored = put(f"{name}.codes", codes, ir.DataType.FLOAT8E4M3FN if weight.real else ir.DataType.UINT8)
            factors = put(f"{name}.scales", scales, kind)
            size = sum(one.nbytes for one in (stored, factors, zeros) if one is not None)
            placed[name] = Placed(linear.shape, weight.bits, block, stored, factors, zeros, weight.order, size)
            progress((number + 1) / len(linears))
    return placed


def block_of(name: str, group: int) -> int:
    """Channels of a block of MatMulNBits that a group of channels is a whole number of.

    Raises:
        CheckpointError: There is none.
    """
    if group in BLOCKS:
        return group
    block = next((block for block in BLOCKS if group % block == 0), None)
    if block is None:
        raise CheckpointError(
            "the groups of a quantised weight fit no block that targets compute in",
            where=name,
            got=f"groups of {group} channels",
            expected=f"multiples of {min(BLOCKS)}",
            fix="take a checkpoint of other groups, or the 16-bit one and luvc-export calibrate --precision q4",
        )
    return block


def _scales(name: str, weight: StoredWeight, dtype: str) -> NDArray[Any]:
    """Scales in the bundle's arithmetic, which must hold them as they are; of FP8 fp32 as stored."""
    if not np.all(np.isfinite(weight.scales.astype(np.float32))):
        raise CheckpointError("a scale of a quantised weight is no number", where=name, fix="download it again")
    if weight.real:
        return weight.scales.astype(np.float32)
    with np.errstate(over="ignore"):
        scales = weight.scales.astype(_ARRAYS[dtype])
    if not np.array_equal(scales.astype(np.float32), weight.scales.astype(np.float32)):
        raise CheckpointError(
            "the scales of a quantised weight would be rounded",
            where=name,
            got=f"{weight.scales.dtype} scales in {dtype}",
            expected="arithmetic that holds them",
            fix="--dtype fp32",
        )
    return scales
