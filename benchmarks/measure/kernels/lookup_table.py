"""A 16-bit table whose rows an fp32 graph looks up: cast whole, cast row by row, or gathered on the host.

Run: python benchmarks/measure/kernels/lookup_table.py [--rows 262144] [--width 2560]. Writes a table of random bf16 to
a temporary folder, and for each way, in a process of its own, prints the memory it holds once loaded and the time of
looking up 300 rows (a prompt) and one (a step).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("whole", "rows", "host")
PROMPT = 300


def graph(folder: Path, way: str, rows: int, width: int) -> Path:
    """Ids to fp32 rows: a Cast of the table and a Gather, or the other way round."""
    from onnx import TensorProto, helper, save

    table = TensorProto(name="table", data_type=TensorProto.BFLOAT16, dims=[rows, width])
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "table"), ("offset", "0"), ("length", str(2 * rows * width))):
        entry = table.external_data.add()
        entry.key, entry.value = key, value
    steps = [("Cast", ["table"], "wide"), ("Gather", ["wide", "ids"], "y")]
    if way == "rows":
        steps = [("Gather", ["table", "ids"], "narrow"), ("Cast", ["narrow"], "y")]
    nodes = [
        helper.make_node(kind, inputs, [output], **({"to": TensorProto.FLOAT} if kind == "Cast" else {"axis": 0}))
        for kind, inputs, output in steps
    ]
    ends = (
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
    )
    body = helper.make_graph(nodes, "g", *ends, [table])
    path = folder / f"{way}.onnx"
    save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), str(path))
    return path


def held() -> float:
    """MiB of this process that are its own: mapped pages of files are anybody's."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")) / 1024


def one(folder: Path, way: str, rows: int, width: int) -> dict[str, Any]:
    """Memory and times of one way."""
    random = np.random.default_rng(0)
    before = held()
    if way == "host":
        table: Any = np.memmap(folder / "table", np.uint16, "r", shape=(rows, width))

        def look_up(ids: Any) -> Any:
            return (table[ids].astype(np.uint32) << 16).view(np.float32)
    else:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(graph(folder, way, rows, width)), options, ["CPUExecutionProvider"])

        def look_up(ids: Any) -> Any:
            return session.run(None, {"ids": ids})[0]

    times: dict[int, list[float]] = {PROMPT: [], 1: []}
    for count, spent in times.items():
        for _ in range(20):
            ids = random.integers(0, rows, count)
            start = time.perf_counter()
            look_up(ids)
            spent.append(1000 * (time.perf_counter() - start))
    mib = held() - before
    return {
        "way": way,
        "MiB": round(mib),
        **{f"ms, {n} rows": round(statistics.median(t), 3) for n, t in times.items()},
    }


def main() -> None:
    """Every way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=262144)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(one(options.folder, options.way, options.rows, options.width)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        block = np.random.default_rng(0).standard_normal((1024, options.width), np.float32).view(np.uint32) >> 16
        with (Path(scratch) / "table").open("wb") as out:
            for _ in range(options.rows // 1024):
                out.write(block.astype(np.uint16).tobytes())
        for way in WAYS:
            words = ["--way", way, "--folder", scratch, "--rows", str(options.rows), "--width", str(options.width)]
            subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
