"""One file of weights for both graphs of a variant: each tensor is written once, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.calibration.quantise.blocks import Rounded, stored_scales
from luvc_export.core.files.safe_files import open_regular, write_new
from luvc_export.core.precision import QuantisedPrecision
from luvc_export.export.ir_edits import constant

#: Larger tensors lie in the file, each at a page's start as runtimes that map files want; others in the graphs.
INLINE_BYTES = 1024
ALIGNMENT = 4096


class WeightPacker:
    """Tensors in ``folder / name``.

    Args:
        folder: Where the graphs will lie.
        name: Of the file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.end = 0
        self._placed: dict[str, ir.Tensor | ir.ExternalTensor] = {}
        write_new(folder / name, b"")

    def put(self, name: str, make: Callable[[], ir.TensorProtocol]) -> ir.Tensor | ir.ExternalTensor:
        """The tensor called ``name``, made and written if it is not there yet."""
        if name in self._placed:
            return self._placed[name]
        tensor = make()
        shape = ir.Shape([int(size) for size in tensor.shape.numpy()])
        if tensor.nbytes < INLINE_BYTES:
            small = self._placed[name] = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=shape, name=name)
            return small
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        with (self.folder / self.name).open("r+b") as file:
            file.seek(offset)
            file.write(contents(tensor))
        self.end = offset + tensor.nbytes
        large = self._placed[name] = ir.ExternalTensor(
            self.name, offset, tensor.nbytes, tensor.dtype, shape=shape, name=name, base_dir=self.folder
        )
        return large

    def array(self, name: str) -> NDArray[Any]:
        """The tensor called ``name``, read."""
        return self._placed[name].numpy()

    def take(self, graph: ir.Graph, name: str) -> ir.Value:
        """An initializer of ``graph`` with the tensor called ``name``."""
        return constant(graph, self._placed[name])

    def take_over(self, graph: ir.Graph) -> None:
        """Write here what initializers of ``graph`` read from other files, and let them read it here."""
        for name, value in graph.initializers.items():
            outside = value.const_value
            if isinstance(outside, ir.ExternalTensor | ir.LazyTensor):
                value.const_value = self.put(name, partial(_itself, outside))


def _itself(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return tensor


def contents(tensor: ir.TensorProtocol) -> bytes:
    """Bytes as a file holds them. ``onnx_ir`` refuses files with several hard links, which bundles may well have."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.tobytes()
    with open_regular(Path(tensor.path), links=True) as file:
        file.seek(tensor.offset or 0)
        return file.read(tensor.length or tensor.nbytes)


def read(tensor: ir.ExternalTensor) -> ir.Tensor:
    """An external tensor of whole bytes an element, read."""
    array = np.frombuffer(contents(tensor), tensor.dtype.numpy()).reshape(tensor.shape.numpy())
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PackedWeight:
    """How one site is quantised; its weight and scales are on the packer under ``NAME.weight_*``.

    Attributes:
        rows: K of the weight.
        columns: N.
        block: Rows that share a scale; None for a scale a column or one in all.
        factor: What activations are divided by [K]; None for nothing.
        range: Largest magnitude of the divided activations that is kept; None where they are not quantised by range.
        bits: Of a code that MatMulNBits reads; other products know by its type.
        name: What its tensors on the packer are called by.
    """

    rows: int
    columns: int
    block: int | None
    factor: Floats | None
    range: float | None
    bits: int
    name: str


def pack_weight(
    packer: WeightPacker,
    name: str,
    precision: QuantisedPrecision,
    weight: Rounded,
    factor: Floats | None,
    top: float | None,
    dtype: type[np.generic],
) -> PackedWeight:
    """Write ``weight`` (``factor`` already in it) for ``precision``; scales in ``dtype``, NVFP4's as it has them.

    A weight of eight bits for a precision of MatMulNBits stays one.
    """
    rows, columns = weight.values.shape
    bits = 8 if weight.values.dtype == np.int8 else 4
    values: NDArray[Any] = weight.values
    scale: NDArray[Any] = weight.scale.astype(dtype)
    if precision.name == "q8":
        # Unsigned around 128: pairs of products with signed weights overflow 16 bits on CPUs without VNNI.
        values, scale = (values.astype(np.int16) + 128).astype(np.uint8), weight.scale
    elif precision.name in ("q4", "q4f16"):
        # As MatMulNBits reads them: two a byte, the even row low, [N, K / block, block / 2], 8 standing for zero; or
        # one a byte, 128 standing for zero.
        codes = (
            (values.astype(np.int16).T + 2 ** (bits - 1)).astype(np.uint8).reshape(columns, -1, weight.block or rows)
        )
        values = codes if bits == 8 else codes[:, :, ::2] | codes[:, :, 1::2] << 4
        scale = np.ascontiguousarray(scale.T)
    elif weight.tensor is not None:
        scale = stored_scales(weight)
        whole = np.array(weight.tensor, np.float32)
        packer.put(f"{name}.weight_global_scale", lambda: ir.tensor(whole))
    packer.put(f"{name}.weight_quantized", lambda: ir.tensor(values))
    packer.put(f"{name}.weight_scale", lambda: ir.tensor(scale))
    return PackedWeight(rows, columns, weight.block, factor, top, bits, name)
