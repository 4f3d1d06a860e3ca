"""Products of a quantised checkpoint's codes become what TensorRT reads: INT4 in blocks, and FP8 widened to 16 bits.

requires: a target that has no MatMulNBits.
matches: MatMulNBits; a Transpose of FP8 numbers times their scales.
apply: MatMulNBits of four bits becomes MatMul with a DequantizeLinear of INT4 codes [K, N] in blocks of K. TensorRT
takes symmetric codes alone, so where a weight has zeros, scale * (code - zero) = scale * (code - 8) + scale * (8 -
zero): the second part is a product of each block's sum of inputs with a matrix [K / block, N], added. FP8 becomes a
weight in the engine's arithmetic, rounded once. No weight is read here: the graph names a file, and says in its
metadata what is to be written there (``engines.codes``).
ensures: no MatMulNBits is left.
must not touch: other quantised weights (Q/DQ).
"""

from __future__ import annotations

import json

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from luvc_export.bundle.codes import KEY, Place, Rewrite, aligned, file_of
from luvc_export.core.element_types import BY_ONNX, BY_PRECISION
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, is_external, readers, source

ORDER = 0

_FP8 = onnx.TensorProto.FLOAT8E4M3FN
#: Blocks of INT4 that TensorRT takes ("Working with Quantized Types": 64 and 128; TensorRT-RTX 1.7.1 builds 32 and 16).
BLOCKS = (16, 32, 64, 128, 256)


def requires(surgery: Surgery) -> str | None:
    """Codes in the graph, and a target that wants them otherwise."""
    if surgery.target.packed_products:
        return "the target takes codes as they are"
    return None if any(surgery.nodes("MatMulNBits")) or _real(surgery) else "no weight is a checkpoint's codes"


def apply(surgery: Surgery) -> int:
    """Rewrite product by product."""
    rewriter = _Rewriter(surgery)
    fired = sum(rewriter.product(node) for node in surgery.nodes("MatMulNBits"))
    fired += sum(rewriter.real(cast) for cast in _real(surgery))
    surgery.graph.cleanup()
    surgery.say(KEY, json.dumps([item.to_json() for item in rewriter.items]))
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Nothing of ONNX Runtime's own is left.

    Raises:
        CheckFailed: Names a product.
    """
    for node in surgery.nodes("MatMulNBits"):
        raise CheckFailed("a product of codes is left", where=node.name)


def _real(surgery: Surgery) -> list[gs.Node]:
    """Casts of FP8 weights."""
    return [node for node in surgery.nodes("Cast") if is_external(node.inputs[0]) and node.inputs[0].dtype == _FP8]


class _Rewriter:
    """Places what is to be written one after the other in a file."""

    def __init__(self, surgery: Surgery) -> None:
        self._surgery = surgery
        self._end = 0
        self._made: dict[str, dict[str, gs.Constant]] = {}
        self._sums: dict[tuple[int, int], gs.Variable] = {}
        self.items: list[Rewrite] = []

    def product(self, node: gs.Node) -> bool:
        bits, block, rows, channels = (int(node.attrs[name]) for name in ("bits", "block_size", "N", "K"))
        if bits != 4 or block not in BLOCKS or rows % 2:
            raise CheckFailed(
                "TensorRT has no product for these codes",
                where=node.name,
                got=f"{bits} bits in blocks of {block}, {rows} outputs",
                expected=f"4 bits in blocks of {', '.join(map(str, BLOCKS))}, an even number of outputs",
                fix="take a 4-bit checkpoint, or the 16-bit one and luvc-export calibrate --precision int8",
            )
        activation, codes, scales = node.inputs[:3]
        zeros = node.inputs[3] if len(node.inputs) > 3 else None
        parts = self._parts(codes, scales, zeros, (channels, rows), block)
        inputs = [parts["codes"], parts["scales"]]
        weight = self._surgery.emit("DequantizeLinear", inputs, axis=0, block_size=block)[0]
        weight.dtype, weight.shape = scales.dtype, [channels, rows]
        out = self._surgery.emit("MatMul", [activation, weight], like=[node.outputs[0]])[0]
        if "shift" in parts:
            sums = self._sum(activation, channels, block)
            shifted = self._surgery.emit("MatMul", [sums, parts["shift"]], like=[node.outputs[0]])[0]
            out = self._surgery.emit("Add", [out, shifted], like=[node.outputs[0]])[0]
        self._surgery.replace(node.outputs[0], out)
        return True

    def _sum(self, activation: gs.Tensor, channels: int, block: int) -> gs.Variable:
        """The sum of each block of an activation's channels, once for all products that read it."""
        key = id(activation), block
        if key not in self._sums:
            leading = [0] * (len(activation.shape) - 1)
            apart = self._surgery.emit("Reshape", [activation, [*leading, channels // block, block]])[0]
            apart.dtype, apart.shape = activation.dtype, [*activation.shape[:-1], channels // block, block]
            total = self._surgery.typed("ReduceSum", [apart, [-1]], activation.dtype, apart.shape[:-1], keepdims=0)
            self._sums[key] = total
        return self._sums[key]

    def real(self, cast: gs.Node) -> bool:
        """FP8 numbers times their scales, up to the Transpose."""
        codes = cast.inputs[0]
        (product,) = readers(cast.outputs[0], "Mul")
        scales = product.inputs[1]
        while (node := source(scales)) is not None:
            scales = node.inputs[0]
        out = product.outputs[0]
        while (after := readers(out)) and after[0].op == "Cast":
            out = after[0].outputs[0]
        for turned in readers(out, "Transpose"):
            rows, channels = (int(size) for size in codes.shape)
            weight = self._parts(codes, scales, None, (channels, rows), 0)["codes"]
            self._surgery.replace(turned.outputs[0], weight)
        return True

    def _parts(
        self, codes: gs.Tensor, scales: gs.Tensor, zeros: gs.Tensor | None, shape: tuple[int, int], block: int
    ) -> dict[str, gs.Constant]:
        """What of a weight [K, N] is written: codes and scales, and the shift where it has zeros."""
        if codes.name in self._made:
            return self._made[codes.name]
        channels, rows = shape
        precision = self._surgery.precision
        kind = BY_PRECISION[precision].onnx if not block else onnx.TensorProto.INT4
        floats = _onnx(scales)
        wanted = {"codes": (kind, shape)}
        if block:
            wanted["scales"] = floats, (channels // block, rows)
        if zeros is not None:
            wanted["shift"] = floats, (channels // block, rows)
        places, constants = {}, {}
        for part, (type_, dims) in wanted.items():
            bits = 4 if type_ == onnx.TensorProto.INT4 else 8 * BY_ONNX[type_].itemsize
            places[part] = Place(file_of(self._surgery.part), self._end, dims[0] * dims[1] * bits // 8)
            constants[part] = _constant(f"{codes.name}.{part}", type_, dims, places[part])
            self._end = aligned(self._end + places[part].bytes)
        sources = {"codes": codes, "scales": scales} | ({"zeros": zeros} if zeros is not None else {})
        self.items.append(
            Rewrite(
                shape, block, "" if block else precision, {name: _place(item) for name, item in sources.items()},
                [int(size) for size in scales.shape], BY_ONNX[floats].name, places,
            )
        )  # fmt: skip
        self._made[codes.name] = constants
        return constants


def _constant(name: str, kind: int, dims: tuple[int, ...], place: Place) -> gs.Constant:
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.bytes)):
        tensor.external_data.add(key=key, value=str(value))
    return gs.Constant(name, LazyValues(tensor))


def _onnx(tensor: gs.Tensor) -> int:
    return int(
        tensor._values.tensor.data_type if is_external(tensor) else onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    )


def _place(tensor: gs.Tensor) -> Place:
    stated = {item.key: item.value for item in tensor._values.tensor.external_data}
    return Place(stated["location"], int(stated.get("offset", 0)), int(stated["length"]))
