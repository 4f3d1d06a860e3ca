"""Weights stored in 16 bits lie in memory in 16 bits, and give the numbers that they gave widened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.runtime.openvino import compiling
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.compiling import Compiled, compile_graph
from luvc_export.runtime.openvino.model import Graph

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
CPU = devices.find("CPU")
WORDS, WIDTH, WIDE = 96, 64, 160
STORED = {"BFLOAT16": "bf16", "FLOAT16": "f16"}
#: fp32 sums in another order; bf16 rounds every product.
NEAR = {"fp32": 1e-5, "bf16": 2e-2}


def compiled(stored: str, arithmetic: str) -> Compiled:
    """An embedding, two products, the first with its weight as torch stores it, and the embedding again as a head."""
    make, random = helper.make_node, np.random.default_rng(0)
    shapes = {"table": (WORDS, WIDTH), "up": (WIDE, WIDTH), "down": (WIDE, WIDTH)}
    values = {name: random.normal(0, WIDTH**-0.5, shape) for name, shape in shapes.items()}
    kind = getattr(TensorProto, stored)
    constants = [helper.make_tensor(name, kind, shapes[name], value.ravel()) for name, value in values.items()]
    nodes = [
        *(make("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT) for name in values),
        make("Gather", ["table_wide", "words"], ["x"]),
        make("Transpose", ["up_wide"], ["up_turned"], perm=[1, 0]),
        make("MatMul", ["x", "up_turned"], ["h"]),
        make("MatMul", ["h", "down_wide"], ["sum"]),
        make("Transpose", ["table_wide"], ["head"], perm=[1, 0]),
        make("MatMul", ["sum", "head"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("words", TensorProto.INT64, [1, "rows"])]
    written = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "rows", WORDS])]
    graph = helper.make_graph(nodes, "narrow", inputs, written, constants)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString()
    read = Graph(devices.core().read_model(data), "", ("y",), 0, 0, (), CheckedGraph(data, Path(), {}, {}, ()))
    return compile_graph(read, CPU, arithmetic)


def lies_in(model: Compiled) -> set[str]:
    """Element types of the weights that the compiled model holds."""
    nodes = model.model.get_runtime_model().get_ops()
    return {
        node.output(0).get_element_type().to_string()
        for node in nodes
        if str(node.get_rt_info()["layerType"].astype(str)) == "Const"
        and np.prod(node.output(0).get_shape()) >= WORDS * WIDTH
    }


def logits(model: Compiled) -> NDArray[np.float32]:
    return np.array(model.request.infer({"words": np.arange(7, dtype=np.int64)[None]})[0])


@pytest.mark.parametrize("arithmetic", [name for name in NEAR if name in CPU.arithmetics])
@pytest.mark.parametrize("stored", STORED)
def test_weights_stay_as_narrow_as_they_are_stored(
    stored: str, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = compiled(stored, arithmetic)
    assert lies_in(narrow) == {STORED[stored]}
    monkeypatch.setattr(compiling, "keep_narrow", lambda *_: 0)
    wide = compiled(stored, arithmetic)
    assert "f32" in lies_in(wide), "OpenVINO no longer widens by itself: keep_narrow can go"
    expected = logits(wide)
    assert np.abs(logits(narrow) - expected).max() <= NEAR[arithmetic] * np.abs(expected).max()
