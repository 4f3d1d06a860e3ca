"""Tables whose rows are looked up are read as they are stored; what else reads one casts it whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from luvc_export.bundle.manifest import WeightTensor
from luvc_export.export import weights

ROWS = np.arange(24, dtype=np.float16).reshape(6, 4)


def attached(folder: Path, head: bool) -> ir.Model:
    """A graph of two look-ups, and with ``head`` a product that reads the table too."""
    table = ir.val("table", ir.DataType.FLOAT, [6, 4])
    ids, outputs, nodes = [ir.val(name, ir.DataType.INT64, [2]) for name in ("a", "b")], [], []
    for number, one in enumerate(ids):
        look_up = ir.node("Gather", [table, one], name=f"look_up_{number}")
        rows, last = look_up.outputs[0], ir.node("Identity", look_up.outputs, name=f"last_{number}")
        rows.name, rows.type, rows.shape = f"rows_{number}", ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 4])
        last.outputs[0].name = f"given_{number}"
        nodes += [look_up, last]
        outputs.append(last.outputs[0])
    if head:
        node = ir.node("MatMul", [table, ir.val("turned", ir.DataType.FLOAT, [4, 1])], name="head")
        node.outputs[0].name = "product"
        nodes.append(node)
        outputs.append(node.outputs[0])
        ids.append(node.inputs[1])  # type: ignore[arg-type]
    graph = ir.Graph([*ids, table], outputs, nodes=nodes, opset_imports={"": 23}, name="g")
    model = ir.Model(graph, ir_version=10)
    (folder / "weights").write_bytes(ROWS.tobytes())
    place = WeightTensor("weights", 0, ROWS.nbytes, "float16", (6, 4))
    weights.attach(model, [table], {"table": place})
    return model


def run(folder: Path, model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    ir.save(model, folder / "graph.onnx")
    session = ort.InferenceSession(str(folder / "graph.onnx"), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


@pytest.mark.parametrize("head", [False, True])
def test_rows_are_cast_and_not_the_table(head: bool, tmp_path: Path) -> None:
    model = attached(tmp_path, head)
    cast = [node.inputs[0].name for node in model.graph if node.op_type == "Cast"]  # type: ignore[union-attr]
    assert cast == (["table"] if head else ["rows_0.stored", "rows_1.stored"])
    assert weights.used(model) == {"table"}
    inputs = {"a": np.array([5, 0]), "b": np.array([2, 2])}
    outputs = run(tmp_path, model, **inputs, **({"turned": np.ones((4, 1), np.float32)} if head else {}))
    assert np.array_equal(outputs[0], ROWS[[5, 0]]) and np.array_equal(outputs[1], ROWS[[2, 2]])
    assert outputs[0].dtype == np.float32 and len(outputs) == 2 + head
