"""Tokens moved by those most like them, in fp32: OpenVINO joins products around a softmax as if they were attention."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch import Tensor

from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.export.llm.working import Working
from luvc_export.runtime.openvino import compiling
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.model import Graph

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
CPU = devices.find("CPU")
#: Below 128 channels nothing is joined.
TOKENS, WIDTH, TEXT = 52, 192, 3
PLACES = tuple(range(0, TOKENS, 2))

#: As bundles of 28 November 2026 move tokens: joined, these have more inputs than the plug-in has registers.
JOINED = """<ir_version: 10, opset_import: ["" : 23]> moves (float[B, G, 52, 192] ways, float[B, G, 26, 192] others,
    float[52, 26] own, float[B, G, 1, 26] gone, float[B, G, 1, 1] any, float[B, G, 26, 192] change,
    float[B, G, 52, 192] spans, float w) => (float[B, G, 52, 192] y) {
    across = Transpose <perm = [0, 1, 3, 2]> (others)  alike = MatMul (ways, across)  scaled = Div (alike, w)
    own_too = Add (scaled, own)  there = Sub (own_too, gone)  shares = Softmax <axis = 3> (there)
    all = Mul (shares, any)  moved = MatMul (all, change)  y = Add (spans, moved) }"""


def graph_of(data: bytes) -> Graph:
    return Graph(devices.core().read_model(data), "", ("y",), 0, 0, (), CheckedGraph(data, Path(), (), {}, []))


def test_what_would_be_joined_beyond_the_registers_stays_apart() -> None:
    data = onnx.parser.parse_model(JOINED).SerializeToString()
    compiled, random = compiling.compile_graph(graph_of(data), CPU, "fp32", threads=1), np.random.default_rng(0)
    sizes = {"batch": 1, "groups": 2}
    shapes = {"ways": (52, 192), "others": (26, 192), "gone": (1, 26), "any": (1, 1), "change": (26, 192)}
    arrays = {name: random.normal(size=(*sizes.values(), *shape)) for name, shape in shapes.items()}
    arrays |= {"spans": arrays["ways"], "own": random.normal(size=(52, 26)), "w": np.array(9.0)}
    asked = {name: array.astype(np.float32) for name, array in arrays.items()}
    shares = arrays["ways"] @ arrays["others"].swapaxes(2, 3) / 9 + arrays["own"] - arrays["gone"]
    shares = np.exp(shares - shares.max(3, keepdims=True))
    moved = shares / shares.sum(3, keepdims=True) * arrays["any"] @ arrays["change"]
    (y,) = compiled.request.infer(asked).values()
    np.testing.assert_allclose(y, arrays["spans"] + moved, atol=1e-4)


def test_other_refusals_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Core:
        def compile_model(self, model: Any, name: str, properties: dict[str, Any]) -> None:
            tried.append(properties)
            raise RuntimeError("no such operator")

    graph = graph_of(onnx.parser.parse_model(JOINED).SerializeToString())
    monkeypatch.setattr(devices, "core", Core)
    with pytest.raises(RuntimeError, match="no such operator"):
        compiling.compile_graph(graph, CPU, "fp32")
    assert len(tried) == 1


class Moving(torch.nn.Module):
    """Half of the visual tokens moved by the others."""

    def forward(self, entered: Tensor, left: Tensor, padding: Tensor) -> Tensor:
        """Rows [B, G * 52 + T, D] behind a layer."""
        return Working(padding.shape[1], TOKENS, PLACES, True).after(entered, left, padding)


@pytest.mark.filterwarnings("ignore")
def test_exported_moves_ask_for_no_more_registers_than_there_are() -> None:
    """As the plug-in comes: apart it would be slower."""
    rows = [torch.randn(2, 2 * count + TEXT, WIDTH) for count in (TOKENS, len(PLACES))]
    padding = torch.rand(2, 2, TOKENS) < 0.3
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Moving(), (*rows, padding), dynamo=True, opset_version=23, dynamic_shapes=(free,) * 3, verbose=False
    )
    assert program is not None
    data = io.BytesIO(program.model_proto.SerializeToString())
    model = devices.core().compile_model(devices.core().read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    arrays = [tensor.numpy() for tensor in (*rows, padding)]
    (moved,) = model.create_infer_request().infer(arrays).values()
    np.testing.assert_allclose(moved, Moving()(*rows, padding).numpy(), atol=1e-4)
