"""What a size bias costs in attention: `python benchmarks/measure/kernels/size_bias.py`, on OpenVINO's CPU plug-in.

A merged unit counts as many times as it has members: log(size) is added to its key's scores. As a mask (what plans with
`size_bias` do), or as one channel more in queries (1 / scale) and keys (log size), joined after the rotation, which
needs no mask. Processor milliseconds of one thread, medians of turns; difference from the mask in fp32, relative L2.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from luvc_export.runtime.openvino import device as devices

HEADS, WIDTH, ROUNDS = 16, 80, 5
CASES = {"full attention, 3072 patches": (1, 3072), "48 windows of 64 patches": (48, 64)}
PARTS = ("q", "k", "v", "log")
KINDS = ("none", "mask", "channel")


def model(library: Any, kind: str, windows: int, length: int) -> Any:
    """Return attention [windows, heads, length, width] with log sizes [windows, length] in one of the forms."""
    ops, shape = library.opset13, [windows, HEADS, length, WIDTH]
    q, k, v = (ops.parameter(shape, np.float32, name) for name in "qkv")
    log = ops.parameter([windows, 1, length, 1], np.float32, "log")
    scale = WIDTH**-0.5
    query, key, inputs, mask = q, k, [q, k, v], []
    if kind == "channel":
        ones = ops.constant(np.full([windows, HEADS, length, 1], 1 / scale, np.float32))
        every = ops.broadcast(log, ops.constant(np.array([windows, HEADS, length, 1])))
        query, key, inputs = ops.concat([q, ones], 3), ops.concat([k, every], 3), [q, k, v, log]
    if kind == "mask":
        row = ops.transpose(log, ops.constant(np.array([0, 1, 3, 2])))
        mask, inputs = [ops.broadcast(row, ops.constant(np.array([windows, 1, length, length])))], [q, k, v, log]
    attention = ops.scaled_dot_product_attention(query, key, v, *(mask or [None]), np.float32(scale))
    return library.Model([attention], inputs, kind)


def main() -> None:
    """Print a table."""
    library, core = devices.load_library(), devices.core()
    print("| attention | arithmetic | form | ms | times none | difference |\n| --- | --- | --- | --- | --- | --- |")
    for name, (windows, length) in CASES.items():
        random = np.random.default_rng(0)
        values = {part: random.normal(size=(windows, HEADS, length, WIDTH)).astype(np.float32) for part in "qkv"}
        values["log"] = np.log(random.integers(1, 5, (windows, 1, length, 1))).astype(np.float32)
        exact: Any = None
        for arithmetic in ("f32", "bf16"):
            options = {"INFERENCE_PRECISION_HINT": arithmetic, "INFERENCE_NUM_THREADS": 1}
            compiled = {
                kind: core.compile_model(model(library, kind, windows, length), "CPU", options) for kind in KINDS
            }
            requests = {kind: compiled.create_infer_request() for kind, compiled in compiled.items()}
            taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(ROUNDS + 1):
                for kind, request in requests.items():
                    inputs = {at: values[PARTS[at]] for at in range(len(compiled[kind].inputs))}
                    begin = time.process_time()
                    request.infer(inputs)
                    taken[kind].append(1000 * (time.process_time() - begin))
            outputs = {kind: np.array(request.get_output_tensor(0).data) for kind, request in requests.items()}
            exact = outputs["mask"] if exact is None else exact
            for kind in KINDS:
                own = median(taken[kind][1:])
                far = np.linalg.norm(outputs[kind] - exact) / np.linalg.norm(exact)
                ratio = own / median(taken["none"][1:])
                print(f"| {name} | {arithmetic} | {kind} | {own:.0f} | {ratio:.2f} | {far:.1e} |", flush=True)


if __name__ == "__main__":
    main()
