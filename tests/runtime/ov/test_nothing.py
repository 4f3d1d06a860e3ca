"""Tensors of no numbers: OpenVINO's reader takes a constant of size [0] for a scalar, and Unsqueeze loses a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from luvc_export.bundle.graph_rules import check_graph
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import rewrites
from luvc_export.runtime.openvino.inline import write_out

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
#: How many visual rows stand before each row of text, where a layer keeps none: as a layer with a state asks it.
MODEL = """
<ir_version: 10, opset_import: ["": 23]>
ranks (int64[B, T] order) => (int64[B, T] y) <int64[1] last = {2}, int64[1] middle = {1}>
{
  visual = Gather <axis: int = 1> (order, none)
  keys = Unsqueeze (visual, middle)
  queries = Unsqueeze (order, last)
  ahead = Less (keys, queries)
  counts = Cast <to: int = 7> (ahead)
  before = ReduceSum <keepdims: int = 0> (counts, last)
  y = Add (order, before)
}
"""
ORDER = np.arange(3, dtype=np.int64)[None]


def answered(empty: bool = True, sizes: bool = True) -> NDArray[np.int64]:
    """What OpenVINO gives of ``MODEL``, with either rewrite or without."""
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(onnx.helper.make_tensor("none", onnx.TensorProto.INT64, [0], []))
    data = model.SerializeToString()
    expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"order": ORDER})[0]
    assert np.array_equal(expected, ORDER)
    written = write_out(CheckedGraph(data, Path(), check_graph(data, "x.onnx"), {}, []), lambda tensor: b"")
    assert written.empty == {"none"}
    library, read = devices.load_library(), devices.core().read_model(written.data)
    if empty:
        rewrites.restore_empty(library, read, written.empty)
        read.validate_nodes_and_infer_types()
    if sizes:
        assert rewrites.say_sizes_of_nothing(library, read) == int(empty)
    request = devices.core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    return np.array(request.infer({"order": ORDER})[0])


def test_layers_that_no_visual_row_enters_count_none() -> None:
    assert np.array_equal(answered(), ORDER)


@pytest.mark.parametrize(("empty", "sizes"), [(True, False), (False, True)])
def test_either_rewrite_is_needed(empty: bool, sizes: bool) -> None:
    """Once OpenVINO does without, they can go."""
    assert not np.array_equal(answered(empty, sizes), ORDER)
