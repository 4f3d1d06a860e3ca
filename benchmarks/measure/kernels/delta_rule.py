"""CPU time of the gated delta rule of one Qwen3.5-0.8B layer: our graph on both back-ends, transformers' torch path.

Run: python benchmarks/measure/kernels/delta_rule.py [--rows 1 64 1100]. One thread; processor time, so that other work
on the machine hardly matters. Prints Markdown: the best of several calls, ms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import openvino
import torch
from onnx import TensorProto, helper
from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

from luvc_export.export.llm.states import delta_rule
from luvc_export.export.surgeon.fused import delta_body

HEADS, KEY, VALUE = 16, 128, 128
CALLS = 5


def graph() -> bytes:
    """The rule alone, written out in standard operators."""
    rows: dict[str, list[Any]] = {name: ["b", HEADS, "s"] for name in delta_body.INPUTS[:5]}
    sizes = {"query": [KEY], "key": [KEY], "value": [VALUE], "decay": [], "beta": []}
    shapes = {name: rows[name] + size for name, size in sizes.items()} | {"state": ["b", HEADS, KEY, VALUE]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    inputs.append(helper.make_tensor_value_info("order", TensorProto.INT64, ["b", "s"]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in delta_body.OUTPUTS]
    node = helper.make_node(delta_rule.NAME, delta_body.INPUTS, delta_body.OUTPUTS, domain=delta_rule.DOMAIN)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(delta_rule.DOMAIN, 1)]
    body = [delta_body.gated_delta_rule(HEADS, KEY, VALUE)]
    whole = helper.make_graph([node], "rule", inputs, outputs)
    model = helper.make_model(whole, functions=body, opset_imports=opsets, ir_version=10)
    written: bytes = onnx.inliner.inline_local_functions(model).SerializeToString()
    return written


def feeds(rows: int) -> dict[str, Any]:
    """Rows and a state; a row keeps 0.93 of the state in the mean."""
    draw = np.random.default_rng(rows)
    wide = {name: draw.standard_normal((1, HEADS, rows, KEY), np.float32) for name in ("query", "key", "value")}
    for name in ("query", "key"):
        wide[name] /= np.linalg.norm(wide[name], axis=-1, keepdims=True)
    rates = {
        "decay": -0.15 * draw.random((1, HEADS, rows), np.float32),
        "beta": draw.random((1, HEADS, rows), np.float32),
    }
    state = draw.standard_normal((1, HEADS, KEY, VALUE), np.float32)
    return wide | rates | {"state": state, "order": np.zeros((1, rows), np.int64)}


def best(call: Callable[[], Any]) -> float:
    """Milliseconds of processor time."""
    spent = []
    for _ in range(CALLS):
        begin = time.process_time()
        call()
        spent.append(1000 * (time.process_time() - begin))
    return min(spent)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1100])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, options, core = graph(), onnxruntime.SessionOptions(), openvino.Core()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    print("| rows | ONNX Runtime | OpenVINO | transformers |\n|---|---|---|---|")
    for rows in asked.rows:
        inputs = feeds(rows)
        parts = [torch.from_numpy(inputs[name]).transpose(1, 2) for name in delta_body.INPUTS[:5]]
        rule = theirs.torch_chunk_gated_delta_rule if rows > 1 else theirs.torch_recurrent_gated_delta_rule
        rest = {"g": parts[3], "beta": parts[4], "initial_state": torch.from_numpy(inputs["state"])}

        def torchs(rule: Any = rule, parts: Any = parts, rest: Any = rest) -> None:
            with torch.inference_mode():
                rule(*parts[:3], **rest, output_final_state=True)

        calls = [lambda inputs=inputs: session.run(None, inputs), lambda inputs=inputs: request.infer(inputs), torchs]
        print(f"| {rows:,} | " + " | ".join(f"{best(call):.2f}" for call in calls) + " |", flush=True)


if __name__ == "__main__":
    main()
