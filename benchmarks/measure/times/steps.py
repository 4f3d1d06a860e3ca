"""One step of one token behind a cache of so many rows: its time, and which operators take it.

Run: ``python benchmarks/measure/times/steps.py BUNDLE PLAN[@WAY] ... [--rows 1088] [--prompts-too] [--profile]``.
Quantised plans as steps of ``openvino+openvino`` run them (activations in fp32); those of floats, and all with
``--prompts-too``, as ``openvino`` does: one graph for prompts and steps. WAY is another one: ``cpu`` (ONNX Runtime),
``bf16`` (activations in bf16), or a number: activations of a row that share a scale. Keys and values are random:
nothing is asked, no picture is needed, and a run takes seconds. A plan must keep all tokens in all layers (``none``,
and what was quantised from it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.bench.machine import bandwidth_reader
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.device import ACTIVATION_GROUPS
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import State

#: The first steps pack weights.
WARM = 3
LEAST_MS = 0.05
#: Seconds after a run in which an engine's threads may still spin beside what is read.
SPINS = 0.1


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("plans", nargs="+", metavar="PLAN[@WAY]")
    parser.add_argument("--rows", type=int, default=1088, help="rows of each layer's cache")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts-too", action="store_true", help="the graph that takes prompts as well")
    parser.add_argument("--profile", action="store_true", help="ms of a step by operator; counting costs some")
    args = parser.parse_args()
    bundle = bundles.load(args.bundle)
    heads = ("plan", "arithmetic", "rows", "step ms", "of it outside the graph", "GB/s read after it")
    print("| " + " | ".join(heads) + " |\n|---|---" + "|---:" * (len(heads) - 2) + "|")
    for asked in args.plans:
        plan, _, way = asked.partition("@")
        backend = opened(bundle, plan, args.prompts_too, way)
        with tempfile.TemporaryDirectory() as folder:
            backend.profile = f"{folder}/steps" if args.profile else None
            times, outside = timed(bundle, backend, plan, args.rows, args.steps)
            middle, low, high = (f"{value:.1f}" for value in (statistics.median(times), min(times), max(times)))
            sleep(SPINS)
            cells = [
                asked,
                backend.arithmetic,
                str(args.rows),
                f"{middle} ({low} to {high})",
                f"{statistics.median(outside):.1f}",
                f"{bandwidth_reader()() / 1e9:.0f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
            if args.profile:
                print(by_operator(Path(backend.end_profiling()["decoder"])), flush=True)
        backend.unload()


def opened(bundle: Bundle, plan: str, prompts_too: bool, way: str = "") -> OpenVinoBackend | OrtBackend:
    """The back-end of a plan's steps, as ``backends.open_backend`` makes it for a pair or alone, or another ``way``."""
    entry = bundle.entry(plan)
    if way == "cpu":
        return OrtBackend(bundle, entry, "cpu")
    apart = entry.quantised is not None and not prompts_too
    backend = OpenVinoBackend(bundle, entry, arithmetic="fp32" if apart and way != "bf16" else "auto")
    backend.only_steps = apart
    backend.narrow_floats = apart and way != "bf16"
    if entry.quantised is not None and apart:
        backend.activation_group = int(way) if way.isdigit() else ACTIVATION_GROUPS.get(entry.quantised.precision)
    return backend


def timed(
    bundle: Bundle, backend: OpenVinoBackend | OrtBackend, plan: str, rows: int, steps: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each step but the first ones, and what of them was spent outside OpenVINO's call."""
    calls, numbers = Session(bundle, backend, plan).default, np.random.default_rng(0)
    values = [numbers.standard_normal(kind.sizes(1, rows), np.float32) for kind in backend.states]
    state = State(backend.adopt(values), rows, rows, rows)
    times, inside = list[float](), list[float]()
    for token in range(WARM + steps):
        begin, spent = perf_counter(), backend.graph_seconds
        state = calls.run([token + 1], state=state).state
        times.append(1000 * (perf_counter() - begin))
        inside.append(1000 * (backend.graph_seconds - spent))
    return times[WARM:], [whole - part for whole, part in zip(times, inside, strict=True)][WARM:]


def by_operator(profile: Path) -> str:
    """Milliseconds of a step and nodes, by the plug-in's kinds of operators."""
    kinds: dict[str, list[float]] = {}
    for event in json.loads(profile.read_text(encoding="utf-8"))["mean"]:
        kinds.setdefault(event["args"]["op_name"], []).append(event["dur"] / 1000)
    spent = sorted(((sum(each), len(each), kind) for kind, each in kinds.items()), reverse=True)
    return "\n".join(f"    {total:7.2f} ms  {kind} x {count}" for total, count, kind in spent if total >= LEAST_MS)


if __name__ == "__main__":
    main()
