"""Functions written out on the wire format: as ``onnx.inliner`` does it, and refused where it would not be safe."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnx.reference
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import OutsideTensor, check_graph
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.onnx_wire import contents, encoded, fields, numbers, part
from luvc_export.errors import BundleError
from luvc_export.runtime.openvino.inline import WrittenOut, write_out

#: A function in a function, an attribute that is passed on, one with a default, one left out, an input that is an
#: output, an output nobody wants, an optional input.
MODEL = """
<ir_version: 10, opset_import: ["": 23, "luvc": 1]>
main (float[3, 4] x) => (float[3, 4] y, float[3, 4] same, float[3, 4] z) {
  y, same, unused = luvc.Outer <factor: float = 3.0> (x, )
  z, more = luvc.Outer <factor: float = 2.0, axis: int = 0> (y, x)
}
<domain: "luvc", opset_import: ["": 23, "luvc": 1]>
Outer <factor, axis: int = 1> (a, b) => (out, a, gone) {
  scale = Constant <value_float: float = @factor> ()
  inner = luvc.Inner <axis: int = @axis> (a)
  out = Mul (inner, scale)
  gone = Identity (out)
}
<domain: "luvc", opset_import: ["": 23]>
Inner <axis, keep> (a) => (out) {
  summed = CumSum <reverse: int = @keep> (a, one)
  one = Constant <value_int: int = @axis> ()
  out = Add (a, summed)
}
"""


def parsed(text: str = MODEL) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for function in model.functions:  # the parser takes nodes in any order, runtimes do not
        function.node.sort(key=lambda node: node.op_type != "Constant")
    return model


def nothing(weight: OutsideTensor) -> bytes:
    raise AssertionError(weight)


def written_out(data: bytes, values: Any = nothing) -> WrittenOut:
    """Of a graph whose walk finds nothing wrong."""
    return write_out(CheckedGraph(data, Path(), check_graph(data, "x.onnx"), {}, []), values)


def unchecked(data: bytes) -> WrittenOut:
    """Of whatever it is."""
    return write_out(CheckedGraph(data, Path(), (), {}, []), nothing)


def test_it_computes_what_the_functions_do() -> None:
    model = parsed()
    written = unchecked(model.SerializeToString())
    flat = onnx.load_from_string(written.data)
    onnx.checker.check_model(flat)
    assert not flat.functions and not any(node.domain for node in flat.graph.node)
    assert [item.domain for item in flat.opset_import] == [""]
    assert written.outputs == ("y", "same", "z")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = 3 * (x + x.cumsum(1))
    expected = (y, x, 2 * (y + y.cumsum(0)))
    for flat_output, right in zip(onnx.reference.ReferenceEvaluator(flat).run(None, {"x": x}), expected, strict=True):
        assert np.array_equal(flat_output, right)
    names = [node.name for node in flat.graph.node]
    assert len(set(names)) == len(names)


def test_graphs_of_ours_have_the_nodes_onnx_finds(demo_bundle: Bundle) -> None:
    entry = demo_bundle.entry("even")
    for name in (entry.vision, entry.decoder, entry.decoder_debug or ""):
        data = demo_bundle.path(name).read_bytes()
        written = written_out(data)
        flat = onnx.load_from_string(written.data)
        whole = onnx.inliner.inline_local_functions(onnx.load_from_string(data))
        assert sorted(node.op_type for node in flat.graph.node) == sorted(node.op_type for node in whole.graph.node)
        outside = {item.name for item in whole.graph.initializer if item.data_location == TensorProto.EXTERNAL}
        assert written.weights.keys() == outside and not any(item.name in outside for item in flat.graph.initializer)
        assert outside <= {item.name for item in flat.graph.input}


def weight(location: str = "weights") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "8", "length": "6"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def one_node(node: onnx.NodeProto, *tensors: TensorProto) -> bytes:
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [], [info], tensors)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]).SerializeToString())


def test_outside_weights_are_named_and_constants_are_filled_in() -> None:
    plain = written_out(one_node(helper.make_node("Cast", ["w"], ["y"], to=1), weight()))
    assert plain.weights == {"w": OutsideTensor("w", "weights", 8, TensorProto.INT8, (2, 3), 6)}
    node = helper.make_node("MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft")
    filled = written_out(one_node(node, weight()), lambda weight: b"123456")
    (inside,) = onnx.load_from_string(filled.data).graph.initializer
    assert inside.raw_data == b"123456" and list(inside.dims) == [2, 3] and not filled.weights


def _inner_graph() -> onnx.NodeProto:
    info = helper.make_tensor_value_info("w", TensorProto.INT8, [2, 3])
    graph = helper.make_graph([], "branch", [], [info], [weight("/etc/passwd")])
    return helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)


@pytest.mark.parametrize(
    "node",
    [helper.make_node("Constant", [], ["y"], value=weight("/etc/passwd")), _inner_graph()],
    ids=["a constant", "an inner graph"],
)
def test_what_is_hidden_outside_is_refused(node: onnx.NodeProto) -> None:
    """OpenVINO would read the file, or any address of this process (location ``*/_ORT_MEM_ADDR_/*``)."""
    with pytest.raises(BundleError, match=r"so it is not run[\s\S]*(lies in another file|operator If)"):
        written_out(one_node(node))


def test_an_address_as_a_file_is_a_name_like_any_other() -> None:
    written = written_out(one_node(helper.make_node("Cast", ["w"], ["y"], to=1), weight("*/_ORT_MEM_ADDR_/*")))
    assert written.weights["w"].location == "*/_ORT_MEM_ADDR_/*"
    assert b"_ORT_MEM_ADDR_" not in written.data


RECURSIVE = MODEL.replace("out = Add (a, summed)", "out = luvc.Inner <axis: int = @axis> (a)")
OLDER = MODEL.replace('<domain: "luvc", opset_import: ["": 23]>', '<domain: "luvc", opset_import: ["": 21]>')


@pytest.mark.parametrize(
    ("text", "refusal"), [(RECURSIVE, "go deeper than 8"), (OLDER, "of opset 21")], ids=["itself", "opset"]
)
def test_functions_that_cannot_be_written_out(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        unchecked(parsed(text).SerializeToString())


def test_calls_that_multiply_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.runtime.openvino.inline._MOST_NODES", 5)
    with pytest.raises(ValueError, match="more than 5 nodes"):
        unchecked(parsed().SerializeToString())


WHOLE = parsed().SerializeToString()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for given_ in (data, WHOLE[: len(data)] + data):
        with suppress(ValueError, IndexError):
            unchecked(given_)


@given(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**63), st.binary(), st.text()))
def test_a_field_reads_back(number: int, value: Any) -> None:
    (field,) = fields(memoryview(encoded(number, value)))
    assert field.number == number and bytes(field.raw) == encoded(number, value)
    (same,) = part(encoded_message(number, value))[number]
    assert same == field.value
    if isinstance(value, int):
        assert field.value == value and numbers({number: [value]}, number) == [value - 2**64 * (value >> 63)]
        with pytest.raises(ValueError, match="a number where a message should be"):
            contents(field.value)
    else:
        assert bytes(contents(field.value)) == (value.encode() if isinstance(value, str) else value)


def encoded_message(number: int, value: Any) -> memoryview:
    return memoryview(encoded(number, value))
