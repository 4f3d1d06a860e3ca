"""One product of a model's own shape, timed by an engine as the runtime opens it: its floating-point rate.

The rate of a product says what an engine makes of this CPU (AVX2, AVX-512, AMX, how many cores are idle) without asking
for its name. What it does not hold is said where it is used: attention, norms and copies are slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import MachineError
from luvc_export.runtime.product_check.graph import INPUT, plain_product

#: Columns and rows of a timed product at most: more makes the probe slower and the rate no other.
MOST_COLUMNS, MOST_ROWS = 4096, 1024
#: Seconds of products timed, and fewest runs.
SECONDS, RUNS = 0.15, 3

Run = Callable[[NDArray[np.float32]], Any]


@dataclass(frozen=True)
class Rate:
    """What one product reached.

    Attributes:
        engine: ``cpu`` (ONNX Runtime) or ``openvino``.
        arithmetic: What it computed in: ``fp32`` or ``bf16``.
        shape: Rows, inner size and columns.
        flops: Floating-point operations a second, a multiply-add counted as two.
    """

    engine: str
    arithmetic: str
    shape: tuple[int, int, int]
    flops: float


def engines() -> tuple[str, ...]:
    """Engines that are installed, the one ``--backend auto`` prefers on a CPU first."""
    from importlib.util import find_spec

    return tuple(name for name, module in (("openvino", "openvino"), ("cpu", "onnxruntime")) if find_spec(module))


def rate(engine: str, rows: int, inner: int, columns: int, threads: int | None = None) -> Rate:
    """Time products float32 [rows, inner] x [inner, columns] in the arithmetic the engine takes by itself.

    Args:
        engine: Of ``engines``.
        rows: Cut to ``MOST_ROWS``.
        inner: Inner size.
        columns: Cut to ``MOST_COLUMNS``.
        threads: CPU threads; None for all cores.

    Raises:
        MachineError: The engine is not installed.
    """
    rows, columns = min(rows, MOST_ROWS), min(columns, MOST_COLUMNS)
    rng = np.random.default_rng(0)
    graph = plain_product(rng.standard_normal((inner, columns), np.float32))
    run, arithmetic = _open(engine, graph, threads)
    activations = rng.standard_normal((rows, inner), np.float32)
    run(activations)
    spent: list[float] = []
    while len(spent) < RUNS or sum(spent) < SECONDS:
        begun = time.perf_counter()
        run(activations)
        spent.append(time.perf_counter() - begun)
    return Rate(engine, arithmetic, (rows, inner, columns), 2 * rows * inner * columns / median(spent))


def _open(engine: str, graph: bytes, threads: int | None) -> tuple[Run, str]:
    if engine not in engines():
        raise MachineError(
            "this engine is not here to be timed",
            where="--backend",
            got=engine,
            expected=" or ".join(engines()) or "an engine for CPUs",
            fix="pip install 'luvc-export[cpu]' or 'luvc-export[openvino]'",
        )
    if engine == "cpu":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, threads or 0
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda rows: session.run(None, {INPUT: rows}), "fp32"
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    request = compiled.create_infer_request()
    return lambda rows: request.infer([rows]), {"f32": "fp32"}.get(hint, hint)
