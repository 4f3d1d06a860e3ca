"""Products of one row, the whole of a decode step but attention: every arithmetic of every engine on this CPU.

Run: ``python benchmarks/measure/kernels/one_row.py [--mib 512] [--only NAME ...]``. Prints Markdown. A chain of
products of the 3B shapes ([1, 2048] x [2048, 11008] and back) with so many different weights that each way reads as
many bytes; beside every run one pass over as many bytes by numpy's matrix times vector. A step of the 3B model is the
bytes of its projections and head at the rate of the chain. One process a way, one way after another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

HIDDEN, WIDE, ROUNDS, WARM = 2048, 11008, 12, 3
#: Weights a decode step of the 3B shape reads: 36 layers and the head.
WEIGHTS = 36 * (2 * 2048 * (16 + 2) * 128 + 3 * 2048 * 11008) + 2048 * 151936
#: Engine, bits of a weight, weights that share a scale (0: a column; -1: none), arithmetic of activations, by way.
WAYS: dict[str, tuple[str, int, int, str]] = {
    "OpenVINO fp32": ("openvino", 32, -1, "f32"),
    "OpenVINO bf16": ("openvino", 16, -1, "bf16"),
    "OpenVINO bf16 weights, fp32 hint": ("openvino", 16, -1, "f32"),
    "OpenVINO f16 weights, fp32 hint": ("openvino", 17, -1, "f32"),
    "OpenVINO u8 a column, fp32 hint": ("openvino", 8, 0, "f32"),
    "OpenVINO u8 by 128, fp32 hint": ("openvino", 8, 128, "f32"),
    "OpenVINO u8 a column, bf16 hint": ("openvino", 8, 0, "bf16"),
    "OpenVINO u4 by 32, fp32 hint": ("openvino", 4, 32, "f32"),
    "OpenVINO u4 by 128, fp32 hint": ("openvino", 4, 128, "f32"),
    "OpenVINO u4 by 128, bf16 hint": ("openvino", 4, 128, "bf16"),
    "ONNX Runtime fp32": ("onnxruntime", 32, -1, ""),
    "ONNX Runtime q8": ("onnxruntime", 8, 0, ""),
    "ONNX Runtime 8 bits by 32, level 4": ("onnxruntime", 8, 32, ""),
    "ONNX Runtime 4 bits by 32, level 4": ("onnxruntime", 4, 32, ""),
    "ONNX Runtime 4 bits by 128, level 4": ("onnxruntime", 4, 128, ""),
}


def chain(bits: int, mib: int) -> list[tuple[int, int]]:
    """Inner size and columns of each product, in turns, until the weights have as many bytes."""
    count = max(2, round(mib * 2**20 * 8 / (16 if bits == 17 else bits) / (HIDDEN * WIDE) / 2) * 2)
    return [(HIDDEN, WIDE), (WIDE, HIDDEN)] * (count // 2)


def openvino_chain(bits: int, group: int, hint: str, shapes: list[tuple[int, int]]) -> Callable[[], Any]:
    """A compiled model of the chain; its call."""
    import openvino as ov
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    row = ops.parameter([-1, HIDDEN], ov.Type.f32)
    out: Any = row
    for inner, columns in shapes:
        if bits >= 16:
            kind = {32: ov.Type.f32, 16: ov.Type.bf16, 17: ov.Type.f16}[bits]
            values = random.standard_normal((columns, inner), np.float32) / np.float32(np.sqrt(inner))
            if bits == 16:
                stored = (values.view(np.uint32) >> 16).astype(np.uint16)
                weight: Any = ov.op.Constant(ov.Tensor(stored, ov.Shape(stored.shape), kind), False)
            else:
                weight = ov.op.Constant(ov.Tensor(values.astype(np.float16) if bits == 17 else values), False)
            if bits != 32:
                weight = ops.convert(weight, "f32")
                weight.get_rt_info()["decompression_0"] = True
        else:
            weight = _ov_codes(ov, ops, random, bits, group or inner, inner, columns)
        out = ops.matmul(out, weight, False, True)
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(ov.Model([out], [row]), "CPU", settings).create_infer_request()
    activation = random.standard_normal((1, HIDDEN), np.float32)
    return lambda: request.infer([activation])


def _ov_codes(ov: Any, ops: Any, random: Any, bits: int, group: int, inner: int, columns: int) -> Any:
    """Unsigned codes with their middle as zero and a scale a group, widened: what compressed models have."""
    grouped, middle = (columns, inner // group, group), float(2 ** (bits - 1))
    data = random.integers(0, 256, columns * inner * bits // 8, np.uint8)
    kind = ov.Type.u8 if bits == 8 else ov.Type.u4
    codes = ops.convert(ov.op.Constant(ov.Tensor(data, ov.Shape(grouped), kind), False), "f32")
    zero = np.full((1, 1, 1), middle, np.uint8) if bits == 8 else np.full(1, 0x88, np.uint8)
    zeros = ops.convert(ov.op.Constant(ov.Tensor(zero, ov.Shape((1, 1, 1)), kind), False), "f32")
    scales = np.full((columns, inner // group, 1), 1 / middle / np.sqrt(inner), np.float32)
    whole = ops.multiply(ops.subtract(codes, zeros), ops.constant(scales))
    return ops.reshape(whole, np.array([columns, inner], np.int64), False)


def onnx_chain(bits: int, group: int, shapes: list[tuple[int, int]]) -> Callable[[], Any]:
    """A session of the chain; its call."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random, nodes, tensors, name = np.random.default_rng(0), [], [], "x"
    values: dict[str, Any] = {}
    for place, (inner, columns) in enumerate(shapes):
        at, out = f"w{place}", f"y{place}"
        inputs = [name, at]
        if bits == 32:
            values[at] = random.standard_normal((inner, columns), np.float32) / np.float32(np.sqrt(inner))
            nodes.append(helper.make_node("MatMul", inputs, [out]))
        elif group == 0:
            values[at] = random.integers(0, 256, (inner, columns), np.uint8)
            values[f"{at}s"] = np.full(columns, 1 / 128 / np.sqrt(inner), np.float32)
            values["zero"] = np.array(128, np.uint8)
            inputs += [f"{at}s", "zero"]
            nodes.append(helper.make_node("DynamicQuantizeMatMul", inputs, [out], domain="com.microsoft"))
        else:
            blocks = inner // group
            values[at] = random.integers(0, 256, (columns, blocks, group * bits // 8), np.uint8)
            values[f"{at}s"] = np.full((columns, blocks), 1 / 2 ** (bits - 1) / np.sqrt(inner), np.float32)
            facts = {"K": inner, "N": columns, "bits": bits, "block_size": group, "accuracy_level": 4}
            inputs.append(f"{at}s")
            nodes.append(helper.make_node("MatMulNBits", inputs, [out], domain="com.microsoft", **facts))
        name = out
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    kept = []
    for key, array in values.items():
        if array.nbytes > 1024:  # beside the file, which has its limits
            kept.append((key, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu")))
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = TensorProto(name=key, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="beside")
            tensors.append(tensor)
        else:
            tensors.append(numpy_helper.from_array(array, key))
    options.add_external_initializers([key for key, _ in kept], [value for _, value in kept])
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["rows", HIDDEN]) for end in ("x", name)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    activation = random.standard_normal((1, HIDDEN), np.float32)
    return lambda: (session.run(None, {"x": activation}), kept)


def times(way: str, mib: int) -> dict[str, Any]:
    """Seconds of the chain and of the passes beside it, in this process."""
    engine, bits, group, hint = WAYS[way]
    shapes = chain(bits, mib)
    run = openvino_chain(bits, group, hint, shapes) if engine == "openvino" else onnx_chain(bits, group, shapes)
    count = sum(inner * columns for inner, columns in shapes)
    size = count * (16 if bits == 17 else bits) // 8 + (0 if group <= 0 else 4 * count // group)
    threads = len(os.sched_getaffinity(0))
    parts = [np.ones((size // threads // 4096 // 4, 4096), np.float32) for _ in range(threads)]
    vector, turns = np.ones(4096, np.float32), []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(WARM + ROUNDS):
            begin = perf_counter()
            list(pool.map(lambda part: part @ vector, parts))
            middle = perf_counter()
            run()
            turns.append((middle - begin, perf_counter() - middle))
    return {"turns": turns[WARM:], "bytes": size, "weights": count}


def line(way: str, measured: dict[str, Any]) -> str:
    """Of the table."""
    reads, runs = zip(*measured["turns"], strict=True)
    run, read, size = statistics.median(runs), statistics.median(reads), measured["bytes"]
    shares = statistics.quantiles((a / b for a, b in measured["turns"]), n=4)
    step = run / measured["weights"] * WEIGHTS
    cells = [way, f"{8 * size / measured['weights']:.1f}", f"{size / 1e9:.2f}", f"{size / run / 1e9:.1f}"]
    cells += [f"{size / read / 1e9:.1f}", f"{shares[1]:.2f} ({shares[0]:.2f} to {shares[2]:.2f})", f"{1000 * step:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Time every way in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="weights of a chain")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(times(args.one, args.mib)))
        return
    from luvc_export.runtime.cpu_features import cpu_features

    print(f"CPU: {', '.join(cpu_features())}; {len(os.sched_getaffinity(0))} cores\n")
    heads = ("way", "bits a weight", "GB", "GB/s", "GB/s read", "share: median (middle half)", "3B step ms")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    for way in args.only:
        alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--mib", str(args.mib), "--one", way]
        done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
        if done.returncode:
            print(f"| {way} | {done.stderr.strip().splitlines()[-1][:90] if done.stderr else 'ended'} |", flush=True)
            continue
        print(line(way, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
