"""Simplified graphs are as small as onnxscript's own optimizer makes them, and compute the same."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import onnxscript.optimizer

from luvc_export.export.trace import _RULES, simplify

TEXT = """
<ir_version: 10, opset_import: ["" : 23, "own" : 1]>
graph (float[n, 2, 6] x) => (float[n, 3, 4] y, float[n, 3, 4] z)
<float one = {1}, float zero = {0}, int64[3] a = {0, 12, 1}, int64[3] b = {0, 3, 4},
 float[2] u = {1, 2}, float[2] v = {3, 4}>
{
  same = Cast<to = 1>(x)
  scaled = Mul(same, one)
  moved = Add(zero, scaled)
  first = Reshape(moved, a)
  r = Reshape(first, b)
  sum = Add(u, v)
  top = ReduceMax<keepdims = 0>(sum)
  y = own.twice(r)
  unused = Sub(r, top)
  back = Transpose<perm = [0, 2, 1]>(r)
  forth = Transpose<perm = [0, 2, 1]>(back)
  z = Mul(forth, top)
}
<domain: "own", opset_import: ["" : 23]>
twice (i) => (o) { o = Add(i, i) }
"""


def test_it_is_as_small_as_the_optimizer_makes_it_and_computes_the_same() -> None:
    proto = onnx.parser.parse_model(TEXT)
    ours, theirs = ir.from_proto(proto), ir.from_proto(proto)
    simplify(ours)
    onnxscript.optimizer.optimize_ir(theirs)
    kinds = [[node.op_type for node in model.graph] for model in (ours, theirs)]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) < len(proto.graph.node) / 2
    x = np.random.default_rng(0).standard_normal((2, 2, 6)).astype(np.float32)
    wanted, simplified = (
        onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for graph in (proto, ir.to_proto(ours))
    )
    for one, other in zip(wanted, simplified, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_each_rule_is_tried_on_the_operator_that_its_pattern_ends_in() -> None:
    """Filed under another it would never fire."""
    for operator, rules in _RULES.items():
        for rule in rules:
            (last,) = (value.producer() for value in rule._target_pattern.outputs)
            assert str(last.op) == operator, rule
