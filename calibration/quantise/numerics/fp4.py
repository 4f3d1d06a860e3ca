"""NVFP4 in a graph: as TensorRT reads it, and a stand-in that ONNX Runtime computes, which has no FP4 (1.31).

E2M1 numbers in blocks of 16 along K share a scale in E4M3, and those a scale in fp32 for the whole tensor. Weights are
two ``DequantizeLinear``. Activations get their block scales as they come, from ``TRT_FP4DynamicQuantize``; the scale of
the whole comes from data. Scales stay fp32 and what they make is cast after, as NVIDIA's ModelOpt exports it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from luvc_export.calibration.quantise.numerics.blocks import FP4_BLOCKS, FP4_MAX, FP8_MAX

#: TensorRT's own operators in ONNX graphs.
DOMAIN = "trt"
DYNAMIC_QUANTIZE = "TRT_FP4DynamicQuantize"
SIZE = FP4_BLOCKS[0]


#: Adds a node and gives its outputs: (operator, inputs, name, domain, attributes, number of outputs).
Emit = Callable[..., tuple[ir.Value, ...]]
#: A constant of the graph by its name, added if it is not there.
Constant = Callable[[str, Any], ir.Value]


def activation_scale(top: float) -> float:
    """Scale of the whole for activations up to ``top``: a block with the largest gets the largest E4M3 number."""
    return top / (FP4_MAX * FP8_MAX) or 1.0


def weight(emit: Emit, name: str, codes: ir.Value, scale: ir.Value, whole: ir.Value) -> ir.Value:
    """fp32 weight [K, N] of ``codes`` E2M1 [K, N], ``scale`` E4M3 [K / 16, N] and ``whole`` fp32 []."""
    (scales,) = emit("DequantizeLinear", [scale, whole], f"{name}.weight_scale_dequantized")
    attributes = {"axis": 0, "block_size": SIZE}
    return emit("DequantizeLinear", [codes, scales], f"{name}.weight_dequantized", attributes=attributes)[0]


def activation(emit: Emit, constant: Constant, at: str, value: ir.Value, top: float) -> ir.Value:
    """fp32 of ``value`` [..., K] rounded to NVFP4 by TensorRT."""
    whole = constant(f"{at}.input_global_scale", np.array(activation_scale(top), np.float32))
    attributes = {"axis": -1, "block_size": SIZE, "scale_type": int(ir.DataType.FLOAT8E4M3FN)}
    codes, scale = emit(DYNAMIC_QUANTIZE, [value, whole], f"{at}.input_quantized", DOMAIN, attributes, 2)
    codes.type, scale.type = ir.TensorType(ir.DataType.FLOAT4E2M1), ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    (scales,) = emit("DequantizeLinear", [scale, whole], f"{at}.input_scale_dequantized")
    attributes = {"axis": -1, "block_size": SIZE}
    return emit("DequantizeLinear", [codes, scales], f"{at}.input_dequantized", attributes=attributes)[0]


def simulated(emit: Emit, constant: Constant, at: str, value: ir.Value, top: float) -> ir.Value:
    """The numbers of ``activation`` in operators ONNX Runtime has: E4M3 by Q/DQ, E2M1 by its steps of 0.5, 1 and 2."""

    def number(name: str, value: float) -> ir.Value:
        return constant(f"fp4.{name}", np.array(value, np.float32))

    numbers = itertools.count()

    def node(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return emit(op, inputs, f"{at}.input_step_{next(numbers)}", attributes=attributes)[0]

    whole = constant(f"{at}.input_global_scale", np.array(activation_scale(top), np.float32))
    flat = node("Reshape", node("Cast", value, to=int(ir.DataType.FLOAT)), constant("fp4.rows", np.array([-1, SIZE])))
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
