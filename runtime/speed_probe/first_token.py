"""What a first token should take on this machine: a plan's FLOPs over the rates of the model's own products.

The rate of a product says what an engine makes of this CPU (AVX2, AVX-512, AMX, how many cores are idle) without asking
for its name. What it does not hold is said where it is used: attention, norms and copies are slower.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import encoder_flops, llm_flops
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import MachineError, PlanError, UsageError
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


@dataclass(frozen=True)
class Speed:
    """Rates of the two halves of a model on this machine."""

    encoder: Rate
    llm: Rate


@dataclass(frozen=True)
class FirstToken:
    """Seconds that a plan should take to its first token: one image and a prompt, nothing cached."""

    encoder: float
    llm: float

    @property
    def seconds(self) -> float:
        """Both halves."""
        return self.encoder + self.llm


def seconds(text: str) -> float:
    """Parse ``500ms``, ``1.5s`` or ``2`` (seconds).

    Raises:
        UsageError: It is no such time, or none.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s|)", text.strip())
    value = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else 0.0
    if value <= 0:
        raise UsageError("this is no time", where="--time", got=text, expected="a time such as 500ms or 1.5s")
    return value


def probe(
    plan: Plan, llm: DecoderShape, encoder: EncoderShape, engine: str | None = None, threads: int | None = None
) -> Speed:
    """Time one product of each half: as many rows as the plan's first layers have.

    Args:
        plan: Says how many patches and visual tokens there are.
        llm: Sizes of the LLM.
        encoder: Sizes of the encoder.
        engine: ``cpu`` or ``openvino``; None for what ``--backend auto`` would take on a CPU.
        threads: CPU threads; None for all cores.

    Raises:
        MachineError: The engine, or any, is not installed.
    """
    name = engine or next(iter(engines()), "cpu")
    images = plan.sharing.images
    seen = rate(name, plan.units * encoder.unit, encoder.hidden, encoder.intermediate, threads)
    read = rate(name, images * plan.units, llm.hidden, llm.intermediate, threads)
    return Speed(seen, read)


def predicted(plan: Plan, llm: DecoderShape, encoder: EncoderShape, text: int, speed: Speed) -> FirstToken:
    """What ``plan`` should take with ``text`` text tokens: its FLOPs as ``plan`` counts them, over the rates.

    Left out are norms, softmax, copies, patch embedding and the head's one row. Six plans took 0.90 to 1.01 times
    what it says: the encoder less, the LLM more (docs/results/first-token.md).
    """
    images = plan.sharing.images
    whole = images * sum(encoder_flops(plan.encoder, encoder)) / speed.encoder.flops
    return FirstToken(whole, sum(llm_flops(plan.llm, llm, plan.keep, text)) / speed.llm.flops)


def speedup_for(goal: float, none: FirstToken, size: str) -> float:
    """Factor on LLM prefill FLOPs at which the first token takes ``goal`` seconds; at most 1 where it does anyway.

    Args:
        goal: Seconds.
        none: What the uncompressed model should take.
        size: The image size, for the error.

    Raises:
        PlanError: The encoder alone takes as long.
    """
    left = goal - none.encoder
    if left <= 0:
        raise PlanError(
            "the encoder alone takes longer here",
            where="--time",
            got=f"{goal * 1000:.0f} ms, the encoder {none.encoder * 1000:.0f} ms at {size}",
            expected=f"more than {none.encoder * 1000:.0f} ms",
            fix="a smaller picture: --image-tokens N",
        )
    return none.llm / left


def to_json(first: FirstToken, speed: Speed) -> dict[str, Any]:
    """A prediction and what it rests on, seconds and FLOPs a second."""
    return {
        "engine": speed.llm.engine,
        "arithmetic": speed.llm.arithmetic,
        "encoder_s": first.encoder,
        "llm_s": first.llm,
        "first_token_s": first.seconds,
        "encoder_flops_per_s": speed.encoder.flops,
        "llm_flops_per_s": speed.llm.flops,
    }
