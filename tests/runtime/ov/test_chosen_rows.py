"""Rows chosen inside a vision graph: products stay in bf16 and scores in fp32, where cosines are gathered by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.runtime.openvino import compiling
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.compiling import Compiled, compile_graph
from luvc_export.runtime.openvino.model import Graph

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
CPU = devices.find("CPU")
pytestmark = pytest.mark.skipif("bf16" not in CPU.arithmetics, reason="this CPU has no bf16")
ROWS, KEPT, WIDTH, HEADS = 96, 24, 128, 4


def compiled(arithmetic: str) -> Compiled:
    """A block, the rows of largest norm after it, and attention between them at their own places."""
    random = np.random.default_rng(0)
    angles = np.arange(ROWS)[:, None] * 100.0 ** -np.linspace(0, 1, WIDTH // HEADS // 2)
    weights = {name: random.normal(0, WIDTH**-0.5, (WIDTH, wide * WIDTH)) for name, wide in (("in", 1), ("qkv", 3))}
    values = {
        **weights,
        "out": random.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }
    make, heads = helper.make_node, {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    nodes = [
        make("MatMul", ["x", "in"], ["h"]),
        make("Mul", ["h", "h"], ["square"]),
        make("ReduceSum", ["square", "last"], ["score"], keepdims=0),
        make("TopK", ["score", "count"], ["best", "order"]),
        make("Squeeze", ["order", "first"], ["index"]),
        make("Gather", ["h", "index"], ["kept"], axis=1),
        *(make("Gather", [name, "index"], [f"{name}_rows"]) for name in ("cos", "sin")),
        *(make("Unsqueeze", [f"{name}_rows", "first"], [f"{name}_kept"]) for name in ("cos", "sin")),
        make("MatMul", ["kept", "qkv"], ["three"]),
        make("Split", ["three"], ["q", "k", "v"], axis=2, num_outputs=3),
        *(make("RotaryEmbedding", [n, "cos_kept", "sin_kept"], [f"{n}_turned"], num_heads=HEADS) for n in ("q", "k")),
        make("Attention", ["q_turned", "k_turned", "v"], ["seen"], **heads),
        make("MatMul", ["seen", "out"], ["y"]),
    ]  # fmt: skip
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    for name, whole in (("last", [2]), ("first", [0]), ("count", [KEPT])):
        constants.append(numpy_helper.from_array(np.array(whole, np.int64), name))
    shapes = {"x": [1, ROWS, WIDTH], "y": [1, KEPT, WIDTH]}
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n])] for n in ("x", "y"))
    graph = helper.make_graph(nodes, "chosen", inputs, outputs, constants)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString()
    read = Graph(devices.core().read_model(data), "", ("y",), 0, 0, (), CheckedGraph(data, Path(), {}, {}, ()))
    return compile_graph(read, CPU, arithmetic, threads=2)


def run(model: Compiled) -> NDArray[np.float32]:
    x = np.random.default_rng(1).normal(size=(1, ROWS, WIDTH)).astype(np.float32)
    model.request.infer({"x": devices.load_library().Tensor(x)})
    (output,) = model.fresh()
    assert output.get_element_type().to_string() == "f32"
    return np.array(model.request.get_output_tensor(0).data, np.float32)


def test_products_are_in_bf16_and_scores_are_not() -> None:
    model = compiled("bf16")
    precisions = model.precisions()
    assert precisions["FullyConnected"] == {"bf16": 3}
    assert set(precisions["Reduce"]) == {"f32"} and "RoPE" not in precisions
    got, want = run(model), run(compiled("fp32"))
    assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)  # rows in the order of their scores


def test_left_alone_the_plug_in_widens_what_is_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the rotations are interrupted; where this fails the plug-in has learned it, and the file may go."""
    monkeypatch.setattr(compiling, "rotate_apart", lambda library, model: 0)
    assert compiled("bf16").precisions()["FullyConnected"]["f32"] >= 1


@pytest.mark.parametrize("apart", [True, False])
def test_an_encoder_that_merges_midway(demo_bundle: Bundle, apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products are in bf16; places, cosines and similarities are not. Left alone products would be in fp32."""
    if not apart:
        monkeypatch.setattr(compiling, "rotate_apart", lambda library, model: 0)
    precisions = OpenVinoBackend(demo_bundle, demo_bundle.entry("even"), arithmetic="bf16")._vision.precisions()
    assert ("f32" in precisions["FullyConnected"]) is not apart
    assert set(precisions["MatMul"]) == set(precisions["Math"]) == {"f32"}


def test_in_fp32_nothing_is_changed() -> None:
    assert "RoPE" in compiled("fp32").precisions()
