"""A decoder opened without its slots: what is taken off, and what is left where it is not a slot's."""

from __future__ import annotations

import onnx
import pytest

from luvc_export.runtime.ort_graphs.bare_slots import without_slots

NAMES = {"lora_rows", "lora_a", "lora_b"}
HEAD = """<ir_version: 10, opset_import: ["": 23]>
g (float[n, 4] x, float[4, 4] w, float[1, r] lora_rows, float[4, r] lora_a, float[r, 4] lora_b) => (float[n, 4] y)
<float zero = {0.0}> {
"""
SLOT = """own = Greater(lora_rows, zero)
p = MatMul(x, w)
u = MatMul(x, lora_a)
c = Where(own, u, zero)
d = MatMul(c, lora_b)
s = Add(p, d)
"""


def nodes(text: str) -> tuple[list[str], set[str]]:
    """Operators that are left, and inputs."""
    data = onnx.parser.parse_model(f"{HEAD}{text}}}").SerializeToString()
    model = onnx.load_from_string(without_slots(data, NAMES))
    onnx.checker.check_model(model)
    return [node.op_type for node in model.graph.node], {value.name for value in model.graph.input}


def test_a_slot_leaves_its_product() -> None:
    assert nodes(SLOT + "y = Sigmoid(s)") == (["MatMul", "Sigmoid"], {"x", "w"})


@pytest.mark.parametrize(
    "text",
    [
        SLOT.replace("s = Add(p, d)", "s = Mul(p, d)") + "y = Sigmoid(s)",
        SLOT.replace("s = Add(p, d)", "y = Add(p, d)"),
        SLOT.replace("c = Where(own, u, zero)", "t = MatMul(u, w)\nc = Add(t, zero)") + "y = Sigmoid(s)",
    ],
)
def test_what_is_no_slot_is_left(text: str) -> None:
    kept = [line.split("= ")[1].partition("(")[0] for line in text.splitlines()]
    assert nodes(text) == (kept, {"x", "w", *NAMES})
