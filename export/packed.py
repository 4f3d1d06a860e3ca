"""Quantised weights as products read them: written to a file, and put into a traced graph.

Codes are moved, never widened, one tensor after the other; a product with a weight becomes one with its codes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.bundle.codes import FP8_BLOCK
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.core.files.safe_files import create
from luvc_export.core.operators import CONTRIB_DOMAIN
from luvc_export.errors import CheckpointError
from luvc_export.export import ir_edits
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


#: Accuracy levels of MatMulNBits: fp32 of activations as they are, or rounded to 8 bits by block.
EXACT, ROUNDED = 1, 4


def insert(
    model: ir.Model, weights: Collection[ir.Value], placed: Mapping[str, Placed], level: int = EXACT
) -> list[ir.Value]:
    """Replace every product with a weight that is placed; returns the other weights.

    Args:
        model: A simplified trace.
        weights: Its graph inputs that stand for weights (``weights.detach``), named as in ``placed``.
        placed: Quantised weights.
        level: ``EXACT`` or ``ROUNDED``.

    Raises:
        CheckpointError: A quantised weight is used by something else than a product.
    """
    inserter = _Inserter(model.graph, level)
    for value in weights:
        if str(value.name) in placed:
            model.graph.inputs.remove(value)
            inserter.replace(value, placed[str(value.name)])
    return [value for value in weights if str(value.name) not in placed]


class _Inserter:
    def __init__(self, graph: ir.Graph, level: int) -> None:
        self._graph, self._level = graph, level
        self._gathered: dict[tuple[int, bytes], ir.Value] = {}

    def replace(self, weight: ir.Value, how: Placed) -> None:
        for user, index in list(weight.uses()):
            if user.op_type == "Transpose" and tuple(user.attributes.get_ints("perm", (1, 0))) == (1, 0):
                for product, place in list(user.outputs[0].uses()):
                    self._replace(weight, product, how, product.op_type == "MatMul" and place == 1)
                self._graph.remove(user, safe=True)
            else:
                turned = user.op_type == "Gemm" and index == 1 and user.attributes.get_int("transB", 0) == 1
                self._replace(weight, user, how, turned and user.attributes.get_int("transA", 0) == 0)

    def _replace(self, weight: ir.Value, product: ir.Node, how: Placed, known: bool) -> None:
        if not known:
            raise CheckpointError(
                "a quantised weight is used by something else than a product",
                where=f"{weight.name}: {product.op_type}",
                fix="take a checkpoint that keeps this module in 16 bits",
            )
        activation = product.inputs[0]
        assert activation is not None
        if how.order is not None:
            activation = self._in_order(weight, activation, how, product)
        rows, channels = how.shape
        if how.block is None:
            result = self._real(weight, activation, how, product)
        else:
            self._graph.opset_imports.setdefault(CONTRIB_DOMAIN, 1)
            inputs = [
                activation,
                *(self._constant(one) for one in (how.codes, how.scales, how.zeros) if one is not None),
            ]
            attributes = {
                "K": channels,
                "N": rows,
                "bits": how.bits,
                "block_size": how.block,
                "accuracy_level": self._level,
            }
            result = self._node("MatMulNBits", inputs, product, f"{weight.name}.product", CONTRIB_DOMAIN, attributes)
        if (bias := ir_edits.bias(product)) is not None:
            result = self._node("Add", [result, bias], product, f"{weight.name}.biased")
        ir_edits.replace_output(self._graph, product, result)

    def _real(self, weight: ir.Value, activation: ir.Value, how: Placed, product: ir.Node) -> ir.Value:
        """A product with FP8 numbers times their scales in fp32, which back-ends fold when they load."""
        name, kind = str(weight.name), weight.dtype
        assert kind is not None
        wide = {"to": int(ir.DataType.FLOAT)}
        numbers = self._node("Cast", [self._constant(how.codes)], product, f"{name}.wide", attributes=wide)
        scale = self._constant(how.scales)
        for axis, (size, count) in enumerate(zip(how.shape, how.scales.shape.numpy(), strict=True)):
            if count not in (1, size):
                place = self._blocks(size)
                scale = self._node(
                    "Gather", [scale, place], product, f"{name}.scales.{axis}", attributes={"axis": axis}
                )
        scaled = self._node("Mul", [numbers, scale], product, f"{name}.scaled")
        if kind != ir.DataType.FLOAT:
            scaled = self._node("Cast", [scaled], product, f"{name}.narrow", attributes={"to": int(kind)})
        turned = self._node("Transpose", [scaled], product, f"{name}.turned", attributes={"perm": [1, 0]})
        turned.shape, turned.type = ir.Shape(how.shape[::-1]), ir.TensorType(kind)
        return self._node("MatMul", [activation, turned], product, f"{name}.product")

    def _blocks(self, size: int) -> ir.Value:
        """Which block of 128 each of ``size`` places is in, once a graph."""
        places = np.arange(size, dtype=np.int64) // FP8_BLOCK
        return ir_edits.constant(self._graph, ir.tensor(places, name=f"blocks_of_{FP8_BLOCK}.{size}"))

    def _in_order(self, weight: ir.Value, activation: ir.Value, how: Placed, product: ir.Node) -> ir.Value:
        """The activation's channels in the order of the codes, gathered once for all products in that order."""
        assert how.order is not None
        key = id(activation), how.order.tobytes()
        if key not in self._gathered:
            order = ir.tensor(how.order.astype(np.int64), name=f"{weight.name}.order")
            value = ir_edits.constant(self._graph, order)
            gathered = self._node(
                "Gather", [activation, value], product, f"{weight.name}.gathered", attributes={"axis": -1}
            )
            gathered.shape, gathered.type = activation.shape, activation.type
            self._gathered[key] = gathered
        return self._gathered[key]

    def _constant(self, tensor: ir.ExternalTensor) -> ir.Value:
        return ir_edits.constant(self._graph, tensor)

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        before: ir.Node,
        name: str,
        domain: str = "",
        attributes: Mapping[str, int | list[int]] | None = None,
    ) -> ir.Value:
        return ir_edits.add_node(self._graph, before, op, inputs, name, domain, attributes)[0]
