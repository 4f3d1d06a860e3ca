"""Products of codes in a graph in bf16, whose results join a cache: the plug-in makes fp32 of one side alone."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import rewrites
from luvc_export.runtime.openvino.compiling import compile_graph
from luvc_export.runtime.openvino.model import Graph
from luvc_export.runtime.product_check import check as product_check

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
CPU = devices.find("CPU")
#: Values of a cache, which have no bias: a product of codes [64, 32], two heads of 16.
MODEL = """
<ir_version: 10, opset_import: ["": 23]>
values (bfloat16[B, S, 64] x, bfloat16[B, 2, T, 16] past) => (bfloat16[B, 2, N, 16] present)
<int64[4] heads = {0, 0, 2, 16}, int8 zero = {0}>
{
  narrow = Cast <to: int = 16> (x)
  codes = QuantizeLinear (narrow, step, zero)
  rounded = DequantizeLinear (codes, step, zero)
  weight = DequantizeLinear <axis: int = 1> (stored, steps)
  product = MatMul (rounded, weight)
  apart = Reshape (product, heads)
  value = Transpose <perm: ints = [0, 2, 1, 3]> (apart)
  present = Concat <axis: int = 2> (past, value)
}
"""
STEP = 0.03125


def graph_of(random: np.random.Generator) -> tuple[Graph, np.ndarray]:
    """The graph as a bundle's is read, and what its codes stand for [64, 32]."""
    model, codes = onnx.parser.parse_model(MODEL), random.integers(-127, 128, (64, 32), np.int8)
    steps = random.uniform(1e-3, 2e-3, 32).astype(ml_dtypes.bfloat16)
    constants = {"stored": codes, "steps": steps, "step": np.array(STEP, ml_dtypes.bfloat16)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    data = model.SerializeToString()
    checked = CheckedGraph(data, Path(), {}, {}, ())
    graph = Graph(devices.core().read_model(data), "", ("present",), 0, 0, (), checked)
    return graph, codes * steps.astype(np.float32)


@pytest.mark.parametrize("arithmetic", [name for name in ("fp32", "bf16") if name in CPU.arithmetics])
def test_values_of_codes_join_a_cache(arithmetic: str) -> None:
    random = np.random.default_rng(0)
    graph, weight = graph_of(random)
    x, past = random.normal(size=(1, 3, 64)).astype(np.float32), np.zeros((1, 2, 5, 16), np.float32)
    if (way := product_check.openvino_int8(devices.core(), "CPU").way) is None:
        pytest.skip("INT8 products saturate on this CPU, whose plans in INT8 are refused")
    compiled = compile_graph(graph, CPU, arithmetic, settings=way.settings)
    assert {kind.to_string() for kind, _ in compiled.inputs.values()} == {"f32"}
    present = np.array(compiled.request.infer({"x": x, "past": past})[0])
    expected = (np.clip(np.rint(x / STEP), -128, 127) * STEP @ weight).reshape(1, 3, 2, 16).swapaxes(1, 2)
    assert not present[:, :, :5].any()
    assert np.abs(present[:, :, 5:] - expected).max() < 2e-2 * np.abs(expected).max()


@pytest.mark.skipif("AMX-BF16" not in cpu_features(), reason="seen with AMX; without bf16 it widens by itself")
def test_left_to_the_plug_in_types_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once OpenVINO compiles it, the rewrite can go."""
    monkeypatch.setattr(rewrites, "widen_beside_codes", lambda *_: 0)
    with pytest.raises(RuntimeError, match="element types are inconsistent"):
        compile_graph(graph_of(np.random.default_rng(0))[0], CPU, "fp32")


def test_graphs_without_codes_stay_in_bf16() -> None:
    library, op = devices.load_library(), devices.load_library().opset13
    parameter = op.parameter([1, 4], library.Type.bf16, name="x")
    model = library.Model([op.result(op.multiply(parameter, parameter))], [parameter])
    assert rewrites.widen_beside_codes(library, model) == 0
    assert model.inputs[0].get_element_type() == library.Type.bf16
