from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from luvc_export.runtime.sharing.load_memory import turned_early, turned_first

RNG = np.random.default_rng(36)
ONE, TWO = (RNG.standard_normal((3, 4)).astype(np.float16) for _ in range(2))


def model(joined: bool = False, read_twice: bool = False, widened: bool = False) -> bytes:
    """``x`` times a weight in half precision that is widened and turned, with the types between."""
    nodes = [helper.make_node("Concat", ["one", "two"], ["both"], axis=0)] if joined else []
    nodes += [
        helper.make_node("Cast", ["both" if joined else "one"], ["wide"], to=TensorProto.FLOAT, name="widen"),
        helper.make_node("Transpose", ["wide"], ["turned"], perm=[1, 0], name="turn"),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    if read_twice:
        nodes.append(helper.make_node("MatMul", ["y", "wide"], ["z"]))
    outputs = ["y", *(["z"] if read_twice else []), *(["wide"] if widened else [])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in outputs],
        [numpy_helper.from_array(ONE, "one"), numpy_helper.from_array(TWO, "two")],
        value_info=[helper.make_tensor_value_info("wide", TensorProto.FLOAT, [6 if joined else 3, 4])],
    )
    encoded: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10
    ).SerializeToString()
    return encoded


def run(data: bytes) -> Any:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


@pytest.mark.parametrize("joined", [False, True])
def test_a_weight_is_turned_before_it_is_widened(joined: bool) -> None:
    before = model(joined)
    after = turned_first(before, {"one", "two"})
    changed = onnx.load_model_from_string(after)
    onnx.checker.check_model(changed, full_check=True)
    order = [(node.op_type, node.name, *node.output) for node in changed.graph.node][-3:-1]
    assert order == [("Transpose", "widen", "wide"), ("Cast", "turn", "turned")]
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize(
    ("changes", "halves"),
    [
        ({"read_twice": True}, {"one"}),
        ({"widened": True}, {"one"}),
        ({}, set()),
        ({}, {"two"}),
        ({"joined": True}, {"one"}),
    ],
)
def test_what_others_read_and_what_is_not_half_stays(changes: dict[str, bool], halves: set[str]) -> None:
    """A Cast with another reader would have to be done twice; a joined weight is half where all its parts are."""
    assert turned_first(model(**changes), halves) == model(**changes)


def test_what_is_no_graph_is_an_error() -> None:
    with pytest.raises((ValueError, IndexError)):
        turned_first(b"\x3a\x05ab", {"one"})
    assert turned_early([], {"one"}) == {}
