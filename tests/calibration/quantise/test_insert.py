"""What ONNX Runtime computes in place of NVFP4 activations is NVFP4: against ml_dtypes, number for number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from luvc_export.calibration.quantise import insert

WIDTH = 32


def run(values: np.ndarray, top: float) -> np.ndarray:
    value = ir.Value(name="x", shape=ir.Shape(["n", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 23}, name="g")

    def emit(
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        outputs: int = 1,
    ) -> tuple[ir.Value, ...]:
        node = ir.node(op, inputs, attributes=attributes, domain=domain, name=name, num_outputs=outputs)
        graph.append(node)
        return tuple(node.outputs)

    def constant(name: str, array: np.ndarray) -> ir.Value:
        if name not in graph.initializers:
            graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(array)))
        return graph.initializers[name]

    out = insert.fp4_simulated(emit, constant, "a", value, top)
    out.name, out.type, out.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", WIDTH])
    graph.outputs.append(out)
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return np.asarray(onnxruntime.InferenceSession(model).run(None, {"x": values})[0])


def expected(values: np.ndarray, top: float) -> np.ndarray:
    whole = np.float32(insert.fp4_scale(top))
    blocks = values.reshape(-1, insert.FP4_BLOCK)
    scale = np.abs(blocks).max(1, keepdims=True) * np.float32(1 / 6) / whole
    scale = np.minimum(scale, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * whole
    with np.errstate(invalid="ignore", divide="ignore"):
        codes = np.clip(np.nan_to_num(blocks / scale), -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return (codes * scale).reshape(values.shape)


@pytest.mark.parametrize("rows", [7, 0])
def test_the_stand_in_rounds_as_nvfp4_does(rows: int) -> None:
    values = np.random.default_rng(0).normal(size=(rows, WIDTH)).astype(np.float32)
    values *= np.float32(10) ** np.arange(-3, rows - 3, dtype=np.float32)[:, None]
    values[:1] = 0
    top = float(np.abs(values).max(initial=1))
    np.testing.assert_allclose(run(values, top), expected(values, top), rtol=1e-6)


def test_ties_go_to_the_even_code() -> None:
    numbers = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0], np.float32)
    values = np.tile(np.concatenate([numbers, -numbers]), 2)[None]
    rounded = run(values, 6.0 * 448)[0, :8]
    np.testing.assert_allclose(rounded, [0, 1, 1, 2, 2, 4, 4, 6])
