"""Memory of the tensors of a graph: sizes that are computed in it, and a rule that engines run as one."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from luvc_export.export.surgeon.passes.cast_precision import RULE
from luvc_export.export.surgeon.peak_memory import peak_bytes


def chunked(prefix: str = "") -> onnx.ModelProto:
    """x [1, T] in chunks of 64, twice: their number is the last of a list that the graph counts."""
    constants = {"one": [1], "zero": 0, "step": 1, "size": [64], "tail": [-1]}
    stored = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    steps = [
        ("Shape", ["x"], "shape", {}),
        ("Gather", ["shape", "one"], "length", {}),
        ("Div", ["length", "size"], "chunks", {}),
        ("Squeeze", ["chunks"], "count", {}),
        ("Range", ["zero", "count", "step"], "each", {}),
        ("Gather", ["each", "tail"], "last", {}),
        ("Add", ["last", "one"], "rows", {}),
        ("Concat", ["rows", "size"], "sides", {"axis": 0}),
        ("Reshape", ["x", "sides"], "apart", {}),
        ("Exp", ["apart"], "grown", {}),
        ("ReduceSum", ["grown"], "y", {"keepdims": 0}),
    ]
    nodes = [helper.make_node(kind, names, [out], f"{prefix}{out}", **more) for kind, names, out, more in steps]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T"])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "chunked", ends, result, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_sizes_that_a_graph_computes_are_known() -> None:
    """``apart`` and ``grown`` are alive together; places are initializers by then."""
    assert 2 * 4 * 256 <= peak_bytes(chunked(), {"x": (1, 256)}) < 2 * 4 * 256 + 128
    assert peak_bytes(chunked(), {"x": (1, 1024)}) > 3.9 * peak_bytes(chunked(), {"x": (1, 256)})


def test_a_rule_keeps_its_share_of_all_that_it_computes() -> None:
    """A chain of eight tensors, of which an order of nodes keeps two at a time."""
    names = ["x", *(f"t{index}" for index in range(8)), "y"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in ("x", "y")]

    def chain(prefix: str) -> int:
        nodes = [helper.make_node("Exp", [one], [two], f"{prefix}{two}") for one, two in itertools.pairwise(names)]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
        return peak_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), {})

    assert chain("") == 2 * 4096
    assert chain(RULE) == round(0.6 * 8 * 4096)
