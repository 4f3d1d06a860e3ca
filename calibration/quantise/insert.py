"""Put decisions into a graph: explicit Q/DQ around products, or ONNX Runtime's own quantised products.

NVFP4: E2M1 numbers in blocks of 16 along K share a scale in E4M3, and those a scale in fp32 for the whole tensor.
Weights are two ``DequantizeLinear``. Activations get their block scales as they come, from ``TRT_FP4DynamicQuantize``;
the scale of the whole comes from data. Scales stay fp32 and what they make is cast after, as NVIDIA's ModelOpt exports
it. ONNX Runtime has no FP4 (1.31): ``fp4_simulated`` stands in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.calibration.quantise.blocks import FP4_BLOCKS, FP4_MAX, FP8_MAX, INT8_MAX
from luvc_export.calibration.quantise.sites import Site, constants, evaluate
from luvc_export.calibration.quantise.weight_packing import PackedWeight, WeightPacker
from luvc_export.core.operators import CONTRIB_DOMAIN
from luvc_export.core.precision import QuantisedPrecision
from luvc_export.export import ir_edits

#: TensorRT's own operators in ONNX graphs.
TENSORRT_DOMAIN = "trt"
DYNAMIC_QUANTIZE = "TRT_FP4DynamicQuantize"
FP4_BLOCK = FP4_BLOCKS[0]


#: Adds a node and gives its outputs: (operator, inputs, name, domain, attributes, number of outputs).
_Emit = Callable[..., tuple[ir.Value, ...]]
#: A constant of the graph by its name, added if it is not there.
_Constant = Callable[[str, Any], ir.Value]


def fp4_scale(top: float) -> float:
    """Scale of the whole for activations up to ``top``: a block with the largest gets the largest E4M3 number."""
    return top / (FP4_MAX * FP8_MAX) or 1.0


def fp4_weight(emit: _Emit, name: str, codes: ir.Value, scale: ir.Value, whole: ir.Value) -> ir.Value:
    """fp32 weight [K, N] of ``codes`` E2M1 [K, N], ``scale`` E4M3 [K / 16, N] and ``whole`` fp32 []."""
    (scales,) = emit("DequantizeLinear", [scale, whole], f"{name}.weight_scale_dequantized")
    attributes = {"axis": 0, "block_size": FP4_BLOCK}
    return emit("DequantizeLinear", [codes, scales], f"{name}.weight_dequantized", attributes=attributes)[0]


def fp4_activation(emit: _Emit, constant: _Constant, at: str, value: ir.Value, top: float) -> ir.Value:
    """fp32 of ``value`` [..., K] rounded to NVFP4 by TensorRT."""
    whole = constant(f"{at}.input_global_scale", np.array(fp4_scale(top), np.float32))
    attributes = {"axis": -1, "block_size": FP4_BLOCK, "scale_type": int(ir.DataType.FLOAT8E4M3FN)}
    codes, scale = emit(DYNAMIC_QUANTIZE, [value, whole], f"{at}.input_quantized", TENSORRT_DOMAIN, attributes, 2)
    codes.type, scale.type = ir.TensorType(ir.DataType.FLOAT4E2M1), ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    (scales,) = emit("DequantizeLinear", [scale, whole], f"{at}.input_scale_dequantized")
    attributes = {"axis": -1, "block_size": FP4_BLOCK}
    return emit("DequantizeLinear", [codes, scales], f"{at}.input_dequantized", attributes=attributes)[0]


def fp4_simulated(emit: _Emit, constant: _Constant, at: str, value: ir.Value, top: float) -> ir.Value:
    """The numbers of ``fp4_activation`` in operators ONNX Runtime has: E4M3 by Q/DQ, E2M1 by steps of 0.5, 1 and 2."""

    def number(name: str, value: float) -> ir.Value:
        return constant(f"fp4.{name}", np.array(value, np.float32))

    numbers = itertools.count()

    def node(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return emit(op, inputs, f"{at}.input_step_{next(numbers)}", attributes=attributes)[0]

    whole = constant(f"{at}.input_global_scale", np.array(fp4_scale(top), np.float32))
    flat = node(
        "Reshape", node("Cast", value, to=int(ir.DataType.FLOAT)), constant("fp4.rows", np.array([-1, FP4_BLOCK]))
    )
    last = constant("fp4.last", np.array([1]))
    largest = node("ReduceMax", node("Abs", flat), last, keepdims=1)
    codes = node(
        "QuantizeLinear",
        node("Mul", largest, number("sixth", 1 / FP4_MAX)),
        whole,
        output_dtype=int(ir.DataType.FLOAT8E4M3FN),
    )
    scale = node("DequantizeLinear", codes, whole)
    some = node("Max", scale, number("tiny", float(np.finfo(np.float32).tiny)))
    size = node("Min", node("Abs", node("Div", flat, some)), number("top", FP4_MAX))
    step = node("Where", node("Less", size, number("four", 4)), number("one", 1), number("two", 2))
    step = node("Where", node("Less", size, number("two", 2)), number("half", 0.5), step)
    rounded = node("Mul", node("Round", node("Div", size, step)), node("Mul", step, node("Sign", flat)))
    return node("Reshape", node("Mul", rounded, scale), node("Shape", value))


_NORMS = ("RMSNormalization", "LayerNormalization")
#: MatMulNBits rounds activations to 8 bits by block: what ONNX Runtime's kernels for CPUs are fast at.
_ACCURACY_LEVEL = 4


class Inserter:
    """Edits one graph in place.

    ``packer`` holds the weights of every site; ``dtype`` is the arithmetic of the graph; ``simulate`` takes operators
    that ONNX Runtime has in place of NVFP4's (``fp4_simulated``).
    """

    def __init__(
        self,
        graph: ir.Graph,
        packer: WeightPacker,
        precision: QuantisedPrecision,
        dtype: type[np.generic],
        simulate: bool = False,
    ) -> None:
        self.graph, self.packer, self.precision, self.dtype, self.simulate = graph, packer, precision, dtype, simulate
        self._own = ir.DataType.from_numpy(np.dtype(dtype))

    def apply(self, sites: Mapping[str, Site], placed: Mapping[str, PackedWeight]) -> None:
        """Quantise ``sites``, each as ``placed`` says."""
        if not self.precision.portable and sites:
            self.graph.opset_imports.setdefault(CONTRIB_DOMAIN, 1)
        for name, site in sites.items():
            how = placed[name]
            folded = how.factor is not None and self._fold(site, how)
            for number, product in enumerate(site.products):
                at = f"{name}.{number}" if number else name
                out = self._product(name, at, product, how, folded)
                if (bias := ir_edits.bias(product)) is not None:
                    out = self._node("Add", [out, bias], f"{at}.biased", product)
                ir_edits.replace_output(self.graph, product, out)

    def _product(self, name: str, at: str, product: ir.Node, how: PackedWeight, folded: bool) -> ir.Value:
        activation = product.inputs[0]
        assert activation is not None
        weight, scale = (self.packer.take(self.graph, f"{how.name}.weight_{part}") for part in ("quantized", "scale"))
        if how.factor is not None and not folded:
            inverse = self._constant(f"{name}.divided_by", (1 / how.factor).astype(self.dtype))
            activation = self._node("Mul", [activation, inverse], f"{at}.divided", product)
        if self.precision.name == "q8":
            zero = self._constant(f"{name}.weight_zero", np.array(128, np.uint8))
            inputs = [self._cast(activation, ir.DataType.FLOAT, f"{at}.input_cast", product), weight, scale, zero]
            out = self._node("DynamicQuantizeMatMul", inputs, f"{at}.product", product, CONTRIB_DOMAIN)
            return self._cast(out, self._own, f"{at}.output_cast", product)  # the operator knows fp32 alone
        if not self.precision.portable:
            attributes = {"K": how.rows, "N": how.columns, "bits": how.bits, "block_size": how.block or how.rows}
            attributes["accuracy_level"] = _ACCURACY_LEVEL
            return self._node(
                "MatMulNBits", [activation, weight, scale], f"{at}.product", product, CONTRIB_DOMAIN, attributes
            )
        if self.precision.arithmetic == "nvfp4":
            return self._fp4(name, at, product, activation, how)
        axis = {"axis": 0, "block_size": how.block} if how.block else {"axis": 1}
        widened = self._node("DequantizeLinear", [weight, scale], f"{at}.weight_dequantized", product, "", axis)
        if how.range is not None:
            activation = self._rounded(at, product, activation, how.range)
        return self._node("MatMul", [activation, widened], f"{at}.product", product)

    def _fp4(self, name: str, at: str, product: ir.Node, activation: ir.Value, how: PackedWeight) -> ir.Value:
        """A product of NVFP4 numbers, in the graph's own arithmetic."""
        emit = partial(ir_edits.add_node, self.graph, product)
        if self.simulate:
            self.packer.put(f"{name}.weight_simulated", lambda: ir.tensor(self._widened(name, how)))
            widened = self.packer.take(self.graph, f"{name}.weight_simulated")
        else:
            parts = (
                self.packer.take(self.graph, f"{name}.weight_{part}") for part in ("quantized", "scale", "global_scale")
            )
            widened = fp4_weight(emit, name, *parts)
        if how.range is not None:
            if not self.simulate:
                self.graph.opset_imports.setdefault(TENSORRT_DOMAIN, 1)
            rounding = fp4_simulated if self.simulate else fp4_activation
            activation = rounding(emit, self._constant, at, activation, how.range)
            activation = self._cast(activation, self._own, f"{at}.input_cast", product)
        widened = self._cast(widened, self._own, f"{at}.weight_cast", product)
        return self._node("MatMul", [activation, widened], f"{at}.product", product)

    def _cast(self, value: ir.Value, to: ir.DataType, name: str, before: ir.Node) -> ir.Value:
        """From the graph's arithmetic to fp32 or back; ``value`` itself where the graph computes in fp32."""
        return value if self.dtype is np.float32 else self._node("Cast", [value], name, before, "", {"to": int(to)})

    def _widened(self, name: str, how: PackedWeight) -> NDArray[np.float32]:
        parts = [
            self.packer.array(f"{name}.weight_{part}").astype(np.float32)
            for part in ("quantized", "scale", "global_scale")
        ]
        return np.asarray(parts[0] * np.repeat(parts[1] * parts[2], how.block or 1, 0), np.float32)

    def _rounded(self, at: str, product: ir.Node, activation: ir.Value | None, top: float) -> ir.Value:
        """Q and DQ of an activation, symmetric, as TensorRT wants them."""
        narrow, limit = (ml_dtypes.float8_e4m3fn, FP8_MAX) if self.precision.name == "fp8" else (np.int8, INT8_MAX)
        scale = self._constant(f"{at}.input_scale", np.array(top / limit or 1.0, self.dtype))
        zero = self._constant(f"{at}.input_zero", np.zeros((), narrow))
        codes = self._node("QuantizeLinear", [activation, scale, zero], f"{at}.input_quantized", product)
        return self._node("DequantizeLinear", [codes, scale, zero], f"{at}.input_dequantized", product)

    def _fold(self, site: Site, how: PackedWeight) -> bool:
        """Divide the norm before a site by its factor, if nothing else reads that norm."""
        activation = site.products[0].inputs[0]
        norm = activation.producer() if activation is not None else None
        if activation is None or norm is None or norm.op_type not in _NORMS or norm.domain or how.factor is None:
            return False
        if {id(node) for node, _ in activation.uses()} != {id(node) for node in site.products}:
            return False
        parameters = [(index, value) for index, value in enumerate(norm.inputs) if index and value is not None]
        if not parameters or any(constants(value) is None for _, value in parameters):
            return False
        for index, value in parameters:
            divided = (evaluate(value).astype(np.float32) / how.factor).astype(self.dtype)
            norm.replace_input_with(index, self._constant(f"{site.name}.norm_{index}", divided))
        return True

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        self.packer.put(name, lambda: ir.tensor(array))
        return self.packer.take(self.graph, name)

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        before: ir.Node,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        return ir_edits.add_node(self.graph, before, op, inputs, name, domain, attributes)[0]
