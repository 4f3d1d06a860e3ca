"""Stands in for the worker of nvidia-modelopt: ranges by ONNX Runtime, Q/DQ pairs in nvidia-modelopt's form."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

#: Tests change these in a copy: what activation scales are multiplied by, and products that stay high.
FACTOR = 1.0
HIGH: list[str] = []


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    model = onnx.load(str(folder / "graph.onnx"))
    products = [node for node in model.graph.node if node.name in set(request["products"]) - set(HIGH)]
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    largest = ranges(model, sorted({node.input[0] for node in products}), folder / "inputs.npz")
    pairs: list[onnx.NodeProto] = []
    for node in products:
        top = np.float32(largest[node.input[0]] * FACTOR / 127)
        columns = (np.abs(weights[node.input[1]]).max(0) / 127).astype(np.float32)
        for number, scale in enumerate((np.array(top), columns)):
            at = f"{node.name}_{number}"
            zero = np.zeros(scale.shape, np.int8)
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{at}_scale"))
            model.graph.initializer.append(numpy_helper.from_array(zero, f"{at}_zero_point"))
            axis = {"axis": 1} if scale.ndim else {}
            ends = [f"{at}_scale", f"{at}_zero_point"]
            pairs.append(helper.make_node("QuantizeLinear", [node.input[number], *ends], [f"{at}_codes"], **axis))
            pairs.append(helper.make_node("DequantizeLinear", [f"{at}_codes", *ends], [f"{at}_out"], **axis))
            node.input[number] = f"{at}_out"
    model.graph.node.extend(pairs)
    onnx.save(model, str(folder / "result.onnx"))


def ranges(model: onnx.ModelProto, names: list[str], calls: Path) -> dict[str, float]:
    """Largest magnitude of each tensor over the calls."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {item.name for item in session.get_inputs()}
    largest = dict.fromkeys(names, 0.0)
    with np.load(calls, allow_pickle=False) as file:
        for call in sorted({key.partition("/")[0] for key in file.files}):
            feeds = {name: file[f"{call}/{name}"] for name in inputs}
            for name, array in zip(names, session.run(names, feeds), strict=True):
                largest[name] = max(largest[name], float(np.abs(array).max(initial=0)))
    return largest


if __name__ == "__main__":
    if sys.argv[1:] == ["--version"]:
        print("0.0.stand-in")
    else:
        main(Path(sys.argv[1]))
