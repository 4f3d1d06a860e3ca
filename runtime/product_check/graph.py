"""The graph of one matrix product and its exact result, as both engines read it and without the ``onnx`` package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.onnx_wire import encoded
from luvc_export.core.element_types import BY_NAME, BY_PRECISION
from luvc_export.core.operators import CONTRIB_DOMAIN

INPUT, OUTPUT = "x", "y"
#: One row is a step of decoding, the others a prompt: engines have kernels of their own for either.
_ROWS = (1, 24)
#: Neither is a multiple of a vector's length, so that the ends of rows are computed too.
_SHAPE = (328, 136)
_SCALE = 2.0**-7
_CODE = 127
_OPSET, _IR = 21, 10
#: Weights of 4 bits that share a scale: the first of these that divides them, as in plans
#: (``calibration.quantise.blocks``).
_BLOCKS = (128, 64, 32)


@dataclass(frozen=True)
class Product:
    """One product.

    Args:
        graph: An ONNX model with input ``INPUT`` float32 [rows, K] and output ``OUTPUT`` float32 [rows, N].
        inputs: Activations, float32 [rows, K]: one row, and several.
        exact: What each must give, float64 [rows, N].
    """

    graph: bytes
    inputs: tuple[NDArray[np.float32], ...]
    exact: tuple[NDArray[np.float64], ...]


def int8_product(dtype: str = "fp32") -> Product:
    """Activations and weights of +-127 between Q and DQ, as ``int8`` plans have them (``calibration.quantise.insert``).

    With u8 x s8 products summed in pairs of 16 bits, every second pair of such codes overflows.

    Args:
        dtype: fp32 or fp16, what a bundle's graphs compute and have their scales in.
    """
    codes, weights = _operands(_CODE)
    kind, half = BY_PRECISION[dtype], dtype != "fp32"
    first, last = ("entered", "left") if half else (INPUT, OUTPUT)
    nodes = [
        _node("QuantizeLinear", [first, "scale", "zero"], "codes"),
        _node("DequantizeLinear", ["codes", "scale", "zero"], "rounded"),
        _node("DequantizeLinear", ["w", "w_scale"], "widened", _integer("axis", 1)),
        _node("MatMul", ["rounded", "widened"], last),
    ]
    if half:
        nodes.insert(0, _node("Cast", [INPUT], first, _integer("to", kind.onnx)))
        nodes.append(_node("Cast", [last], OUTPUT, _integer("to", BY_PRECISION["fp32"].onnx)))
    constants: dict[str, NDArray[Any]] = {
        "scale": np.array(_SCALE, kind.name),
        "zero": np.zeros((), np.int8),
        "w": weights,
        "w_scale": np.full(weights.shape[1], _SCALE, kind.name),
    }
    return _product(nodes, constants, [code * _SCALE for code in codes], weights * _SCALE)


def float_product() -> Product:
    """A product whose operands every arithmetic of 16 bits holds exactly: small integers."""
    values, weights = _operands(8)
    nodes = [_node("MatMul", ["x", "w"], OUTPUT)]
    return _product(nodes, {"w": weights.astype(np.float32)}, list(values), weights)


class Coded(NamedTuple):
    """Two products with coded weights, one row that goes through them, [1, K], and what that gives exactly."""

    graph: bytes
    given: NDArray[np.float32]
    exact: NDArray[np.float32]


def coded_products(bits: int, inner: int, columns: int) -> Coded:
    """Products [rows, inner] x [inner, columns] and back, with weights as plans in ``q8`` and ``q4`` have them.

    Args:
        bits: 8: a scale a column, activations in one range a call. 4: a scale for each block of ``_BLOCKS``.
        inner: A multiple of 32.
        columns: The same.
    """
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((1, inner), np.float32)
    nodes, constants, name, exact = [], dict[str, NDArray[Any]](), INPUT, activations
    domain, middle = encoded(7, CONTRIB_DOMAIN), 2 ** (bits - 1)
    for at, (rows, width, out) in enumerate(((inner, columns, "between"), (columns, inner, OUTPUT))):
        weight, scale = f"w{at}", np.float32(1 / middle / np.sqrt(rows))
        codes = rng.integers(0, 2**bits, (rows, width), np.uint8)
        exact = (exact @ (codes.astype(np.float32) - middle)) * scale
        if bits == 8:
            constants |= {weight: codes, f"{weight}s": np.full(width, scale, np.float32)}
            constants["middle"] = np.array(middle, np.uint8)
            inputs = [name, weight, f"{weight}s", "middle"]
            nodes.append(_node("DynamicQuantizeMatMul", inputs, out, domain))
        else:
            size = next(block for block in _BLOCKS if rows % block == 0)
            blocks = np.ascontiguousarray(codes.T).reshape(width, rows // size, size)
            constants[weight] = blocks[:, :, ::2] | blocks[:, :, 1::2] << 4
            constants[f"{weight}s"] = np.full(blocks.shape[:2], scale, np.float32)
            facts = {"K": rows, "N": width, "bits": 4, "block_size": size, "accuracy_level": 4}
            given_facts = b"".join(_integer(fact, value) for fact, value in facts.items())
            nodes.append(_node("MatMulNBits", [name, weight, f"{weight}s"], out, domain + given_facts))
        name = out
    return Coded(_model(nodes, constants, (inner, inner), (CONTRIB_DOMAIN,)), activations, exact)


def plain_product(weights: NDArray[np.float32]) -> bytes:
    """An ONNX model of one product with ``weights`` float32 [K, N]: float32 [rows, K] in, [rows, N] out."""
    return _model([_node("MatMul", ["x", "w"], OUTPUT)], {"w": weights}, (weights.shape[0], weights.shape[1]))


def _operands(largest: int) -> tuple[list[NDArray[Any]], NDArray[np.int8]]:
    rng = np.random.default_rng(0)
    signs = [rng.choice([-largest, largest], (rows, _SHAPE[0])) for rows in _ROWS]
    return signs, rng.choice([-largest, largest], _SHAPE).astype(np.int8)


def _product(
    nodes: Sequence[bytes], constants: dict[str, NDArray[Any]], inputs: list[NDArray[Any]], weights: NDArray[Any]
) -> Product:
    model = _model(nodes, constants, _SHAPE)
    exact = tuple(np.asarray(each, np.float64) @ np.asarray(weights, np.float64) for each in inputs)
    return Product(model, tuple(np.asarray(each, np.float32) for each in inputs), exact)


def _model(
    nodes: Sequence[bytes],
    constants: dict[str, NDArray[Any]],
    shape: tuple[int, int],
    domains: Sequence[str] = (),
) -> bytes:
    graph = b"".join(encoded(1, node) for node in nodes) + encoded(2, "product")
    graph += b"".join(encoded(5, _tensor(name, array)) for name, array in constants.items())
    graph += encoded(11, _value(INPUT, shape[0])) + encoded(12, _value(OUTPUT, shape[1]))
    opsets = encoded(8, encoded(1, "") + encoded(2, _OPSET))
    opsets += b"".join(encoded(8, encoded(1, domain) + encoded(2, 1)) for domain in domains)
    return encoded(1, _IR) + encoded(7, graph) + opsets


def _node(op: str, inputs: Sequence[str], output: str, attribute: bytes = b"") -> bytes:
    return b"".join(encoded(1, name) for name in inputs) + encoded(2, output) + encoded(4, op) + attribute


def _integer(name: str, value: int) -> bytes:
    return encoded(5, encoded(1, name) + encoded(3, value) + encoded(20, 2))


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    sizes = b"".join(encoded(1, size) for size in array.shape)
    return sizes + encoded(2, BY_NAME[array.dtype.name].onnx) + encoded(8, name) + encoded(9, array.tobytes())


def _value(name: str, columns: int) -> bytes:
    rows = encoded(1, encoded(2, "rows"))
    shape = encoded(2, rows + encoded(1, encoded(1, columns)))
    return encoded(1, name) + encoded(2, encoded(1, encoded(1, BY_NAME["float32"].onnx) + shape))
