"""The debug decoder is the traced one with its selections as inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.trace import forced_decoder

#: Two prunes, of six to four and of four to two, as ``spu.select`` writes them; ``logits`` are the values kept.
TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
decoder (float[1, 1, 6] score) => (float[1, 1, 2] logits, int64[1, 1, 4] kept2, int64[1, 1, 2] kept5)
<int64[1] four = {4}, int64[1] two = {2}, int64[1] nought = {0}, int64[1] one = {1}, int64[1] less_one = {-1}>
{
  more = Mul(score, score)
  rows = Concat<axis = 1>(score, more)
  best, place = TopK<largest = 1>(rows, four)
  ordered, unused = TopK<largest = 0>(place, four)
  kept2 = Slice(ordered, nought, less_one, one)
  first = GatherElements<axis = 2>(score, kept2)
  rows2 = Concat<axis = 1>(first, first)
  best2, place2 = TopK<largest = 1>(rows2, two)
  ordered2, unused2 = TopK<largest = 0>(place2, two)
  kept5 = Slice(ordered2, nought, less_one, one)
  logits = GatherElements<axis = 2>(first, kept5)
}
"""
SCORE = np.array([[[3, 1, 4, 1.5, 5, 9]]], np.float32)


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, feeds)
    return outputs


@pytest.fixture
def traced() -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    for value, layer in zip(model.graph.outputs[1:], (2, 5), strict=True):
        value.name = graph_io.kept_name(layer)
    return model


def test_what_the_graph_chose_gives_what_it_gave(traced: ir.Model) -> None:
    logits, first, second = run(traced, score=SCORE)
    assert first.ravel().tolist() == [0, 2, 4, 5] and second.ravel().tolist() == [2, 3]
    forced = forced_decoder(traced, [2, 5])
    names = [value.name for value in forced.graph.inputs]
    assert names == ["score", graph_io.forced_name(2), graph_io.forced_name(5)]
    assert [value.name for value in forced.graph.outputs] == [graph_io.LOGITS]
    assert not [node for node in forced.graph if node.op_type == "TopK"]
    forced_rows = {graph_io.forced_name(2): first, graph_io.forced_name(5): second}
    assert np.array_equal(run(forced, score=SCORE, **forced_rows)[0], logits)
    other = run(forced, score=SCORE, **{**forced_rows, graph_io.forced_name(5): np.array([[[0, 1]]])})[0]
    assert other.ravel().tolist() == [3, 4]


def test_the_traced_decoder_stays_as_it_was(traced: ir.Model) -> None:
    before = ir.to_proto(traced).SerializeToString()
    forced_decoder(traced, [2, 5])
    assert ir.to_proto(traced).SerializeToString() == before


def test_a_selection_that_is_not_found_is_an_error(traced: ir.Model) -> None:
    with pytest.raises(CheckFailed, match=r"got: 2 selections\n.*expected: one before each of the layers \[2\]"):
        forced_decoder(traced, [2])
