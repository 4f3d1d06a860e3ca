"""Products of one row, the whole of a decode step but attention: every arithmetic of every engine on this CPU.

Run: ``python benchmarks/measure/kernels/one_row.py [--mib 512] [--only NAME ...]``. Prints Markdown. A chain of
products of the 3B shapes ([1, 2048] x [2048, 11008] and back) with so many different weights that each way reads as
many bytes; beside every run one pass over as many bytes by numpy's matrix times vector. A step of the 3B model is the
bytes of its projections and head at the rate of the chain. One process a way, one way after another.

``WAYS`` are arithmetics and engines, ``TRIED`` what a step might do otherwise with the same weights: other groups and
codes, products joined, settings of OpenVINO's plug-in, memory (``--only`` takes their names, or ``tried`` for all).
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
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any

import numpy as np

HIDDEN, WIDE, ROUNDS, WARM = 2048, 11008, 12, 3
#: Seconds after a run in which an engine's threads may still spin, and take the cores from what reads beside it.
SPINS = 0.1
#: Weights a decode step of the 3B shape reads: 36 layers and the head.
WEIGHTS = 36 * (2 * 2048 * (16 + 2) * 128 + 3 * 2048 * 11008) + 2048 * 151936
#: Columns of the products that read a layer's input: queries, keys, values.
PROJECTED = (2048, 256, 256)


@dataclass(frozen=True)
class Way:
    """How a chain is computed.

    Args:
        engine: ``openvino`` or ``onnxruntime``.
        bits: Of a weight; 17 is fp16.
        group: Weights that share a scale; 0: a column, -1: none.
        hint: Arithmetic of activations.
        signed: Codes have a sign and no zero point.
        form: ``chain``; ``gated`` and ``joined``: MLPs, whose gate and up are two products or one; ``projected`` and
            ``projected joined``: queries, keys and values as three products or one, and the product behind them.
        settings: Of OpenVINO's plug-in.
        environment: Variables of the process.
    """

    engine: str
    bits: int
    group: int = -1
    hint: str = "f32"
    signed: bool = False
    form: str = "chain"
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


WAYS = {
    "OpenVINO fp32": Way("openvino", 32),
    "OpenVINO bf16": Way("openvino", 16, hint="bf16"),
    "OpenVINO bf16 weights, fp32 hint": Way("openvino", 16),
    "OpenVINO f16 weights, fp32 hint": Way("openvino", 17),
    "OpenVINO u8 a column, fp32 hint": Way("openvino", 8, 0),
    "OpenVINO u8 by 128, fp32 hint": Way("openvino", 8, 128),
    "OpenVINO u8 a column, bf16 hint": Way("openvino", 8, 0, "bf16"),
    "OpenVINO u4 by 32, fp32 hint": Way("openvino", 4, 32),
    "OpenVINO u4 by 128, fp32 hint": Way("openvino", 4, 128),
    "OpenVINO u4 by 128, bf16 hint": Way("openvino", 4, 128, "bf16"),
    "ONNX Runtime fp32": Way("onnxruntime", 32),
    "ONNX Runtime q8": Way("onnxruntime", 8, 0),
    "ONNX Runtime 8 bits by 32, level 4": Way("onnxruntime", 8, 32),
    "ONNX Runtime 4 bits by 32, level 4": Way("onnxruntime", 4, 32),
    "ONNX Runtime 4 bits by 128, level 4": Way("onnxruntime", 4, 128),
}
_GROUP, _WHOLE = "DYNAMIC_QUANTIZATION_GROUP_SIZE", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 2**32}
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
TRIED = {
    "u4 a column": Way("openvino", 4, 0),
    "u4 by 64": Way("openvino", 4, 64),
    "u4 by 256": Way("openvino", 4, 256),
    "i4 by 128": Way("openvino", 4, 128, signed=True),
    "u4 by 128, activations by 128": Way("openvino", 4, 128, settings={_GROUP: 128}),
    "u4 by 128, activations not quantised": Way("openvino", 4, 128, settings={_GROUP: 0}),
    "u4 by 128, one thread": Way("openvino", 4, 128, settings={"INFERENCE_NUM_THREADS": 1}),
    "u4 by 128, not pinned": Way("openvino", 4, 128, settings={"ENABLE_CPU_PINNING": False}),
    "u4 by 128, large pages": Way("openvino", 4, 128, environment=_LARGE_PAGES),
    "u4 by 128, MLPs": Way("openvino", 4, 128, form="gated"),
    "u4 by 128, MLPs, gate and up joined": Way("openvino", 4, 128, form="joined"),
    "u4 by 128, projections": Way("openvino", 4, 128, form="projected"),
    "u4 by 128, projections joined": Way("openvino", 4, 128, form="projected joined"),
    "i8 a column": Way("openvino", 8, 0, signed=True),
    "u8 a column, one thread": Way("openvino", 8, 0, settings={"INFERENCE_NUM_THREADS": 1}),
    "u8 a column, activations by 128": Way("openvino", 8, 0, settings={_GROUP: 128}),
    "u8 a column, activations whole": Way("openvino", 8, 0, settings=_WHOLE),
    "u8 a column, large pages": Way("openvino", 8, 0, environment=_LARGE_PAGES),
    "u8 a column, MLPs": Way("openvino", 8, 0, form="gated"),
    "u8 a column, MLPs, gate and up joined": Way("openvino", 8, 0, form="joined"),
    "i8 a column, fused MLPs, bf16 hint": Way("openvino", 8, 0, "bf16", True, "gated", _WHOLE),
    "bf16, MLPs": Way("openvino", 16, hint="bf16", form="gated"),
    "bf16, large pages": Way("openvino", 16, hint="bf16", environment=_LARGE_PAGES),
    "ONNX Runtime 8 bits by 64, level 4": Way("onnxruntime", 8, 64),
    "ONNX Runtime 8 bits by 128, level 4": Way("onnxruntime", 8, 128),
    "ONNX Runtime 8 bits by 256, level 4": Way("onnxruntime", 8, 256),
    "ONNX Runtime 4 bits by 256, level 4": Way("onnxruntime", 4, 256),
}


def chain(bits: int, mib: int, form: str = "chain") -> list[tuple[int, int]]:
    """Inner size and columns of each product, in turns, until the weights have as many bytes."""
    if form in ("gated", "joined"):
        block = [(HIDDEN, WIDE), (HIDDEN, WIDE), (WIDE, HIDDEN)]
    elif form != "chain":
        block = [*((HIDDEN, columns) for columns in PROJECTED), (HIDDEN, HIDDEN)]
    else:
        block = [(HIDDEN, WIDE), (WIDE, HIDDEN)]
    weights = sum(inner * columns for inner, columns in block)
    return block * max(1, round(mib * 2**20 * 8 / (16 if bits == 17 else bits) / weights))


def openvino_chain(way: Way, shapes: list[tuple[int, int]]) -> Callable[[], Any]:
    """A compiled model of the chain; its call."""
    import openvino as ov
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    row = ops.parameter([-1, -1, HIDDEN], ov.Type.f32)
    out: Any = row

    def product(rows: Any, inner: int, columns: int) -> Any:
        return ops.matmul(rows, _ov_weight(ov, ops, random, way, inner, columns), False, True)

    todo = list(shapes)
    while todo:
        if way.form == "chain":
            out = product(out, *todo.pop(0))
        elif way.form in ("gated", "joined"):
            gate, up, down = (todo.pop(0) for _ in range(3))
            if way.form == "joined":
                both = product(out, HIDDEN, 2 * WIDE)
                first, second = ops.variadic_split(both, np.array(-1), np.array([WIDE, WIDE])).outputs()
            else:
                first, second = product(out, *gate).output(0), product(out, *up).output(0)
            change = product(ops.multiply(ops.swish(first), second), *down)
            out = ops.add(out, ops.multiply(change, np.float32(1 / 64)))  # or squares of squares would leave fp32
        else:
            three, behind = [todo.pop(0) for _ in PROJECTED], todo.pop(0)
            if way.form == "projected":
                parts = [product(out, *shape).output(0) for shape in three]
            else:
                whole = product(out, HIDDEN, sum(PROJECTED))
                parts = ops.variadic_split(whole, np.array(-1), np.array(PROJECTED)).outputs()
            queries, keys, values = parts
            times = np.array([1, 1, HIDDEN // PROJECTED[1]])
            out = product(ops.add(queries, ops.tile(ops.add(keys, values), times)), *behind)
            out = ops.multiply(out, np.float32(1 / 2))
    settings = {"INFERENCE_PRECISION_HINT": way.hint, "PERFORMANCE_HINT": "LATENCY", **way.settings}
    request = ov.Core().compile_model(ov.Model([out], [row]), "CPU", settings).create_infer_request()
    activation = random.standard_normal((1, 1, HIDDEN), np.float32)
    return lambda: request.infer([activation])


def _ov_weight(ov: Any, ops: Any, random: Any, way: Way, inner: int, columns: int) -> Any:
    """A product's weight [columns, inner], widened."""
    if way.bits < 16:
        return _ov_codes(ov, ops, random, way, inner, columns)
    kind = {32: ov.Type.f32, 16: ov.Type.bf16, 17: ov.Type.f16}[way.bits]
    values = random.standard_normal((columns, inner), np.float32) / np.float32(np.sqrt(inner))
    if way.bits == 16:
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        weight: Any = ov.op.Constant(ov.Tensor(stored, ov.Shape(stored.shape), kind), False)
    else:
        weight = ov.op.Constant(ov.Tensor(values.astype(np.float16) if way.bits == 17 else values), False)
    if way.bits != 32:
        weight = ops.convert(weight, "f32")
        weight.get_rt_info()["decompression_0"] = True
    return weight


def _ov_codes(ov: Any, ops: Any, random: Any, way: Way, inner: int, columns: int) -> Any:
    """Codes and a scale a group, widened: what compressed models have. Without a sign their middle is zero."""
    bits, group, middle = way.bits, way.group or inner, float(2 ** (way.bits - 1))
    data = random.integers(0, 256, columns * inner * bits // 8, np.uint8)
    kind = getattr(ov.Type, f"{'i' if way.signed else 'u'}{bits}")
    grouped, sizes = (columns, inner // group, group), (columns, inner // group, 1)
    if group == inner:
        grouped, sizes = (columns, inner), (columns, 1)
    stored = data.view(np.int8) if (way.signed and bits == 8) else data
    codes = ops.convert(ov.op.Constant(ov.Tensor(stored, ov.Shape(grouped), kind), False), "f32")
    if not way.signed:
        ones = ov.Shape([1] * len(grouped))
        zero = np.full(1, middle if bits == 8 else 0x88, np.uint8)
        zeros = ops.convert(ov.op.Constant(ov.Tensor(zero, ones, kind), False), "f32")
        codes = ops.subtract(codes, zeros)
    whole = ops.multiply(codes, ops.constant(np.full(sizes, 1 / middle / np.sqrt(inner), np.float32)))
    return whole if group == inner else ops.reshape(whole, np.array([columns, inner], np.int64), False)


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
    asked = {**WAYS, **TRIED}[way]
    bits, group, shapes = asked.bits, asked.group, chain(asked.bits, mib, asked.form)
    run = openvino_chain(asked, shapes) if asked.engine == "openvino" else onnx_chain(bits, group, shapes)
    count = sum(inner * columns for inner, columns in shapes)
    size = count * (16 if bits == 17 else bits) // 8 + (0 if group <= 0 else 4 * count // group)
    threads = len(os.sched_getaffinity(0))
    parts = [np.ones((size // threads // 4096 // 4, 4096), np.float32) for _ in range(threads)]
    vector, turns = np.ones(4096, np.float32), []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(WARM + ROUNDS):
            sleep(SPINS)
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
    parser.add_argument("--only", nargs="+", choices=[*WAYS, *TRIED, "tried"], default=list(WAYS))
    parser.add_argument("--one", choices=[*WAYS, *TRIED], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(times(args.one, args.mib)))
        return
    from luvc_export.runtime.cpu_features import cpu_features

    print(f"CPU: {', '.join(cpu_features())}; {len(os.sched_getaffinity(0))} cores\n")
    heads = ("way", "bits a weight", "GB", "GB/s", "GB/s read", "share: median (middle half)", "3B step ms")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    for way in TRIED if args.only == ["tried"] else args.only:
        alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **{**WAYS, **TRIED}[way].environment}
        command = [sys.executable, __file__, "--mib", str(args.mib), "--one", way]
        done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
        if done.returncode:
            print(f"| {way} | {done.stderr.strip().splitlines()[-1][:90] if done.stderr else 'ended'} |", flush=True)
            continue
        print(line(way, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
