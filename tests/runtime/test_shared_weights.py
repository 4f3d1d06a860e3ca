"""Weights that several graphs read: mapped as they are, or widened once where graphs only widen them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.hashing import Identity, WatchedFile
from luvc_export.errors import BundleError
from luvc_export.runtime.sharing.shared_weights import SharedWeights


def _graph(folder: Path) -> CheckedGraph:
    """A product with widened bf16, one that is also read as it is, and an fp32 sum; 6 numbers each."""
    values = np.arange(6, dtype=np.float32) + 0.5
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)  # exact: few bits
    (folder / "weights").write_bytes(stored.tobytes() + stored.tobytes() + values.tobytes())
    kinds = {"half": (TensorProto.BFLOAT16, 0), "both": (TensorProto.BFLOAT16, 12), "full": (TensorProto.FLOAT, 24)}
    outside = []
    for name, (kind, offset) in kinds.items():
        tensor = TensorProto(name=name, data_type=kind, dims=[2, 3], data_location=TensorProto.EXTERNAL)
        size = 24 if kind == TensorProto.FLOAT else 12
        for key, value in (("location", "weights"), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        outside.append((tensor, OutsideTensor(name, "weights", offset, kind, (2, 3), size)))
    nodes = [
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["turned"], perm=[1, 0]),
        helper.make_node("Cast", ["both"], ["also"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["both"], ["bits"]),
        helper.make_node("Add", ["also", "full"], ["sum"]),
        helper.make_node("MatMul", ["x", "turned"], ["product"]),
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, k]) for n, k in (("product", 2), ("sum", 3))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, results, [tensor for tensor, _ in outside]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    identity = Identity.of((folder / "weights").stat())
    files = {"weights": WatchedFile(folder / "weights", identity, lambda: identity)}
    return CheckedGraph(model.SerializeToString(), folder, tuple(item for _, item in outside), files, [])


def test_what_is_only_widened_is_widened_once_and_the_rest_is_mapped(tmp_path: Path) -> None:
    shared, checked = SharedWeights(), _graph(tmp_path)
    assert shared.bytes_to_widen(checked) == 48
    graph = shared.graph(checked, "g")
    assert {name: kind for name, (_, kind) in graph.weights.items()} == {"half": 1, "both": 16, "full": 1}
    expected = np.arange(6, dtype=np.float32).reshape(2, 3) + 0.5
    assert np.array_equal(graph.weights["half"][0], expected) and graph.weights["half"][0].dtype == np.float32
    assert isinstance(graph.weights["full"][0].base, np.memmap) or isinstance(graph.weights["full"][0], np.memmap)
    again = shared.graph(checked, "g")
    assert np.shares_memory(again.weights["half"][0], graph.weights["half"][0])
    assert shared.bytes_to_widen(checked) == 24, "what is read as it is stays half precision"
    types = {one.name: one.data_type for one in onnx.load_from_string(graph.data).graph.initializer}
    assert types == {"half": TensorProto.FLOAT, "both": TensorProto.BFLOAT16, "full": TensorProto.FLOAT}


def test_onnx_runtime_reads_them_where_they_are(tmp_path: Path) -> None:
    """A change of the shared array is a change of the session's weight: nothing was copied."""
    graph = SharedWeights().graph(_graph(tmp_path), "g")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    values = {name: make(*weight) for name, weight in graph.weights.items()}
    for name, value in values.items():
        options.add_initializer(name, value)
    session_options = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": ["ConstantFolding"]}
    session = ort.InferenceSession(graph.data, options, **session_options)
    half, x = graph.weights["half"][0], np.ones((2, 3), np.float32)
    assert np.allclose(session.run(["product"], {"x": x})[0], x @ half.T)
    half *= 2
    assert np.allclose(session.run(["product"], {"x": x})[0], x @ half.T)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    good = _graph(tmp_path)
    nameless = onnx.load_from_string(good.data)
    nameless.graph.node[0].ClearField("op_type")
    for data in (b"", b"\x3a\xff", good.data[:-7], nameless.SerializeToString()):
        broken = CheckedGraph(data, good.folder, good.outside, good.files, [])
        with pytest.raises(BundleError, match="no ONNX graph"):
            SharedWeights().graph(broken, "g")
