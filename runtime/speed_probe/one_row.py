"""Which engine reads a quantised model's weights fastest at a step of one row, tried on this CPU with its own shape.

Two products there and back, [1, hidden] x [hidden, intermediate], as plans in ``q8`` and ``q4`` have them, and one of
floats, as heads are that are not in codes; each counts as often as the model has such weights. A step's weights come
from memory, these few would come from a cache of the last level: it is filled with something else before each run. What
a way gives is held to what its weights say before its time counts. Tried once for each CPU, version, shape and number
of threads, in a second or two, and remembered in the user's cache folder; what was tried beside other work is tried
again, when there is none or a few times beside it, and then the shorter time of each way counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.files.remembered import keep, recall
from luvc_export.core.shapes import DecoderShape
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.openvino.device import ACTIVATION_GROUPS
from luvc_export.runtime.ort_graphs.blocks import Blocks, in_blocks
from luvc_export.runtime.product_check.check import MOST_CODED, onnxruntime_blocks
from luvc_export.runtime.product_check.graph import INPUT, Coded, coded_products, plain_product

#: Precisions of plans that are tried, and bits of a weight.
BITS = {"q8": 8, "q4": 4}
#: Sizes at most: what is larger takes longer and says the same.
MOST_INNER, MOST_COLUMNS, MOST_HEAD = 4096, 11008, 8192
#: Seconds spent on a product of a way, and fewest runs: the shortest counts, which other work disturbed least.
SECONDS, RUNS = 0.05, 7
#: Processes that wait for a core, by cores (the load average of a minute), above which times are not to be kept.
BUSY = 0.5
#: How often it is tried while there always is other work.
MOST_TRIES = 4
FOLDER = "steps"
#: Of how it is timed: what was remembered of another way of timing is tried again.
_PROBE = 6
#: Bytes that are written before each run: one and a half times those of the last cache, between these two.
LEAST_SPILL, MOST_SPILL = 2**26, 2**28
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def step_times(
    precision: str, shape: DecoderShape, threads: int | None = None, coded_head: bool = False
) -> dict[str, float]:
    """Seconds of a step's products by back-end (``openvino``, ``paired.PAIRS``), if they are right.

    Args:
        precision: Of ``BITS``.
        shape: Of the model.
        threads: CPU threads; None for all cores.
        coded_head: The head is in codes too.
    """
    inner, columns = min(shape.hidden, MOST_INNER) // 32 * 32, min(shape.intermediate, MOST_COLUMNS) // 32 * 32
    key, busy_before = _key(precision, shape, threads, coded_head), busy()
    known, tries = _remembered(key, busy_before)
    if known and not tries:
        return known
    coded = coded_products(BITS[precision], inner, columns)
    head = None if coded_head else float_head(inner, min(shape.vocab, MOST_HEAD))
    attention = 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim
    weights = shape.layers * (attention + 3 * shape.hidden * shape.intermediate)
    largest = shape.hidden * shape.vocab
    layers = (weights + (0 if head else largest)) / (2 * inner * columns)
    heads = largest / head.exact.size / inner if head else 0.0
    times = {}
    for way, (open_coded, open_head) in ways(threads, precision).items():
        parts = timed(open_coded, coded), timed(open_head, head) if head else 0.0
        if parts[0] is not None and parts[1] is not None:
            times[way] = layers * parts[0] + heads * parts[1]
    is_busy = busy() or busy_before
    if is_busy:
        times |= {way: min(spent, times.get(way, spent)) for way, spent in known.items()}
    keep(FOLDER, key, {"seconds": times, "busy": is_busy, "tries": tries + is_busy})
    return times


def is_settled(precision: str, shape: DecoderShape) -> bool:
    """Whether ``step_times`` of all cores are known and not to be tried again."""
    known, tries = _remembered(_key(precision, shape, None, False), busy())
    return bool(known) and not tries


def _key(precision: str, shape: DecoderShape, threads: int | None, coded_head: bool) -> dict[str, Any]:
    sizes = [shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.intermediate, shape.vocab]
    key = {"cpu": cpu_features(), "versions": _versions(), "shape": [precision, *sizes], "threads": threads}
    return key | {"coded_head": coded_head, "probe": _PROBE}


def float_head(inner: int, columns: int) -> Coded:
    """A product with weights that are floats, as heads of quantised plans are."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, (inner, columns), np.int8).astype(np.float32) * np.float32(2.0**-7)
    activations = rng.standard_normal((1, inner), np.float32)
    return Coded(plain_product(weights), activations, activations @ weights)


def is_right(run: Run, coded: Coded) -> bool:
    """Whether it gives what the weights say."""
    return float(np.abs(run(coded.given) - coded.exact).max() / np.abs(coded.exact).max()) <= MOST_CODED


def timed(open_way: Callable[[bytes], Run], coded: Coded) -> float | None:
    """Shortest seconds of a way; None where it is not installed, cannot run the products or computes them wrong."""
    try:
        run = open_way(coded.graph)
        right = is_right(run, coded)
    except (ImportError, RuntimeError, ValueError):
        return None
    except Exception as error_of_library:  # ONNX Runtime's derive from Exception alone
        if type(error_of_library).__module__.startswith("onnxruntime"):
            return None
        raise
    if not right:
        return None
    runs, total, shortest, spill = 0, 0.0, float("inf"), spilling()
    started = time.perf_counter()
    while runs < RUNS or total < SECONDS:
        spill()
        begun = time.perf_counter()
        run(coded.given)
        ended = time.perf_counter()
        runs, total, shortest = runs + 1, ended - started, min(shortest, ended - begun)
    return shortest


def spilling() -> Callable[[], None]:
    """What leaves nothing of before in the caches of this CPU: it writes to more memory than they hold."""
    memory = np.zeros(min(max(LEAST_SPILL, last_cache() * 3 // 2), MOST_SPILL), np.uint8)

    def spill() -> None:
        np.add(memory, 1, out=memory)

    return spill


def last_cache() -> int:
    """Bytes of the largest cache that the system lists; 0 where it lists none."""
    units, sizes = {"K": 2**10, "M": 2**20, "G": 2**30}, [0]
    for file in _CACHES.glob("index*/size"):
        try:
            text = file.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KMG")) * units.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes)


def busy() -> bool:
    """Whether other work takes this machine's cores; False where the system does not say."""
    ask = getattr(os, "getloadavg", None)  # not on Windows
    try:
        return ask is not None and ask()[0] > BUSY * (os.cpu_count() or 1)
    except OSError:
        return False


def ways(threads: int | None, precision: str) -> dict[str, tuple[Callable[[bytes], Run], Callable[[bytes], Run]]]:
    """What opens products with codes and that of the head, by the back-end that would run steps so."""

    def onnxruntime(graph: bytes, blocks: Blocks | None = None) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, threads or 0
        if blocks is not None:
            blocks.add_weights(onnxruntime, options)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        if blocks is not None:
            blocks.forget()  # results are held to what was forgotten
        return lambda rows: (np.asarray(session.run(None, {INPUT: rows})[0]), blocks)[0]

    def in_their_blocks(graph: bytes) -> Run:
        if BITS[precision] != 8 or not onnxruntime_blocks():
            return onnxruntime(graph)
        blocks = in_blocks(graph, lambda name: None)
        return onnxruntime(blocks.graph, blocks)

    def openvino(settings: Mapping[str, Any]) -> Callable[[bytes], Run]:
        def opened(graph: bytes) -> Run:
            import openvino

            core, own = openvino.Core(), {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
            properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **own, **settings}
            request = core.compile_model(core.read_model(graph), "CPU", properties).create_infer_request()
            return lambda rows: np.array(request.infer([rows])[0])

        return opened

    group = ACTIVATION_GROUPS.get(precision)
    grouped = {} if group is None else {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
    fp32, usual = openvino({"INFERENCE_PRECISION_HINT": "f32", **grouped}), openvino({})
    return {
        "openvino": (usual, usual),
        "openvino+openvino": (fp32, usual),
        "openvino+cpu": (in_their_blocks, onnxruntime),
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in ("onnxruntime", "openvino"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _remembered(key: Mapping[str, Any], busy_now: bool) -> tuple[dict[str, float], int]:
    """What was found for ``key``, and how often beside other work, where another try is due; else 0.

    Nothing where nothing was found, or what is there is something else. Records of before do not say whether the
    machine was busy; they count as if it had been.
    """
    data = recall(FOLDER, key)
    try:
        times = {str(way): float(spent) for way, spent in data["seconds"].items()}
        tries = int(data.get("tries", 1)) if data.get("busy", True) else 0
        return times, tries if tries < MOST_TRIES or not busy_now else 0
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}, 0
