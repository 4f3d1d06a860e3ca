"""Attention-23 against com.microsoft.GroupQueryAttention in ONNX Runtime: docs/results/history.md.

Run: python benchmarks/measure/kernels/attention.py. One node each, fp32, heads of Qwen2.5-VL-3B (16 and 2, 128 wide),
packed, cache in and out as in a bundle, in turns; the largest difference of the outputs is printed beside the times.
"""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

HEADS, KV_HEADS, SIZE, ROUNDS = 16, 2, 128, 15
#: Rows of this call, rows in the cache.
CASES = {
    "prefill, 756 + 64 rows": (820, 0),
    "prefill, 1,024 + 64 rows": (1088, 0),
    "decode after 1,088 rows": (1, 1088),
}


def main() -> None:
    """Print one line a case."""
    print("| | Attention ms | GroupQueryAttention ms | largest difference |\n|---|---|---|---|")
    for name, (rows, past) in CASES.items():
        random = np.random.default_rng(0)
        feeds = {
            "q": random.standard_normal((1, rows, HEADS * SIZE), np.float32),
            "k": random.standard_normal((1, rows, KV_HEADS * SIZE), np.float32),
            "v": random.standard_normal((1, rows, KV_HEADS * SIZE), np.float32),
            "past_k": random.standard_normal((1, KV_HEADS, past, SIZE), np.float32),
            "past_v": random.standard_normal((1, KV_HEADS, past, SIZE), np.float32),
        }
        order = np.arange(past + rows)
        mask = {"mask": (order[None, :] <= order[past:, None])[None, None]}
        lengths = {"last": np.array([[past + rows - 1]], np.int32), "total": np.array(past + rows, np.int32)}
        sides = [(attention(), feeds | mask), (group_query(), feeds | lengths)]
        times: list[list[float]] = [[], []]
        outputs: list[Any] = [None, None]
        for _ in range(ROUNDS):
            for side, (session, inputs) in enumerate(sides):
                begin = perf_counter()
                outputs[side] = session.run(None, inputs)[0]
                times[side].append(1000 * (perf_counter() - begin))
        ours, theirs = (statistics.median(side[2:]) for side in times)
        apart = float(np.abs(outputs[0] - outputs[1]).max())
        print(f"| {name} | {ours:.2f} | {theirs:.2f} | {apart:.1e} |")


def attention() -> Any:
    """Attention-23 with a boolean mask, as bundles have it."""
    names = ["q", "k", "v", "mask", "past_k", "past_v"]
    node = helper.make_node("Attention", names, ["y", "pk", "pv"], q_num_heads=HEADS, kv_num_heads=KV_HEADS)
    return session(node, [("mask", TensorProto.BOOL, [1, 1, "rows", "all"])])


def group_query() -> Any:
    """GroupQueryAttention, causal by position."""
    names = ["q", "k", "v", "past_k", "past_v", "last", "total"]
    heads = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
    node = helper.make_node("GroupQueryAttention", names, ["y", "pk", "pv"], domain="com.microsoft", **heads)
    return session(node, [("last", TensorProto.INT32, [1, 1]), ("total", TensorProto.INT32, [])])


def session(node: onnx.NodeProto, more: list[tuple[str, int, list[Any]]]) -> Any:
    """A graph of one node."""
    wide, narrow = [1, "rows", HEADS * SIZE], [1, "rows", KV_HEADS * SIZE]
    cache = [1, KV_HEADS, "past", SIZE]
    shapes = {"q": wide, "k": narrow, "v": narrow, "past_k": cache, "past_v": cache}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()]
    inputs += [helper.make_tensor_value_info(*item) for item in more]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "one", inputs, outputs), opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
