"""One step of one token behind a cache of so many rows: its time, and which operators take it.

Run: ``python benchmarks/measure/times/steps.py BUNDLE PLAN[@WAY] ... [--rows 1088] [--prompts-too] [--profile]``.
Quantised plans as steps of ``openvino+openvino`` run them (activations in fp32); those of floats, and all with
``--prompts-too``, as ``openvino`` does: one graph for prompts and steps. WAY is another one: ``cpu`` (ONNX Runtime, as
``openvino+cpu`` has it), ``cpu.blocks`` (8 bits in blocks there) or ``cpu.whole`` (one graph for prompts and steps, as
``cpu`` has it), ``bf16`` (activations in bf16),
``head`` (norm and head apart, as a pair shares them), or a number: activations of a row that share a scale. Keys and
values are random:
nothing is asked, no picture is needed, and a run takes seconds. Ways step in turns, all loaded at once (but with
``--profile``). Before each step all cores read as many bytes as it reads (numpy, float32 matrix times vector): a share
is such a pass's time by its step's. A plan must keep all tokens in all layers (``none``, and what was quantised from
it).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.device import ACTIVATION_GROUPS
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import State

#: The first steps pack weights.
WARM = 3
#: Columns of the matrix that is read beside a step.
WIDE = 4096
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
    heads = ("plan", "arithmetic", "rows", "step ms", "of it outside the graph", "GB a step", "GB/s read before each")
    heads = (*heads, "share: median (middle half)")
    print("| " + " | ".join(heads) + " |\n|---|---" + "|---:" * (len(heads) - 2) + "|")
    ways = [Steps(bundle, asked, args.prompts_too, args.rows) for asked in ([] if args.profile else args.plans)]
    for asked in args.plans if args.profile else ():
        with tempfile.TemporaryDirectory() as folder:
            way = Steps(bundle, asked, args.prompts_too, args.rows, f"{folder}/steps")
            in_turns([way], args.steps)
            print(way.line(args.rows), flush=True)
            print(by_operator(Path(way.backend.end_profiling()["decoder"])), flush=True)
            way.backend.unload()
    in_turns(ways, args.steps)
    print("\n".join(way.line(args.rows) for way in ways), flush=True)


class Steps:
    """Steps of one way, and how long they took.

    Args:
        bundle: Has the plan.
        asked: ``PLAN[@WAY]``.
        prompts_too: See ``--prompts-too``.
        rows: Of each layer's cache.
        profile: Prefix of profile files; None for none.
    """

    def __init__(self, bundle: Bundle, asked: str, prompts_too: bool, rows: int, profile: str | None = None) -> None:
        plan, _, way = asked.partition("@")
        self.asked, self.backend = asked, opened(bundle, plan, prompts_too, way)
        self.backend.profile = profile
        self._calls, numbers = Session(bundle, self.backend, plan).default, np.random.default_rng(0)
        values = [numbers.standard_normal(kind.sizes(1, rows), np.float32) for kind in self.backend.states]
        self._state = State(self.backend.adopt(values), rows, rows, rows)
        self.times, self.outside, self.passes = list[float](), list[float](), list[float]()
        self.bytes = read_bytes(bundle, plan, self.backend.arithmetic) + sum(array.nbytes for array in values)

    def step(self, token: int) -> None:
        """Go on with a token."""
        begin, spent = perf_counter(), self.backend.graph_seconds
        self._state = self._calls.run([token], state=self._state).state
        self.times.append(1000 * (perf_counter() - begin))
        self.outside.append(self.times[-1] - 1000 * (self.backend.graph_seconds - spent))

    def line(self, rows: int) -> str:
        """Of the table: all but the first steps."""
        times, passes = self.times[WARM:], self.passes[WARM:]
        middle, low, high = (f"{value:.1f}" for value in (statistics.median(times), min(times), max(times)))
        cells = [self.asked, self.backend.arithmetic, str(rows), f"{middle} ({low} to {high})"]
        cells += [f"{statistics.median(self.outside[WARM:]):.1f}", f"{self.bytes / 1e9:.2f}"]
        cells += [f"{self.bytes / statistics.median(passes) / 1e6:.0f}"]
        shares = statistics.quantiles((read / step for read, step in zip(passes, times, strict=True)), n=4)
        cells += [f"{shares[1]:.2f} ({shares[0]:.2f} to {shares[2]:.2f})"]
        return "| " + " | ".join(cells) + " |"


def in_turns(ways: list[Steps], steps: int) -> None:
    """Step all of them, one after the other, when no threads of the one before spin any more."""
    threads, vector = len(os.sched_getaffinity(0)), np.ones(WIDE, np.float32)
    most = max(way.bytes for way in ways) // threads // WIDE // 4
    parts = [np.ones((most, WIDE), np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for token in range(WARM + steps):
            for way in ways:
                rows = way.bytes // threads // WIDE // 4
                sleep(SPINS)
                begin = perf_counter()
                list(pool.map(lambda part, rows=rows: part[:rows] @ vector, parts))  # type: ignore[misc]
                way.passes.append(1000 * (perf_counter() - begin))
                way.step(token + 1)


def read_bytes(bundle: Bundle, plan: str, arithmetic: str) -> int:
    """Of the weights of a plan's decoder, as its products read them: floats in ``arithmetic``, codes as they lie."""
    graph = read_graph(bundle, bundle.entry(plan).decoder)
    tables = {wire.texts(node, onnx.NODE_INPUT)[0] for node in graph.nodes if wire.text(node, onnx.NODE_OP) == "Gather"}
    others = (node for node in graph.nodes if wire.text(node, onnx.NODE_OP) != "Gather")
    read = {name for node in others for name in wire.texts(node, onnx.NODE_INPUT)}
    narrow = arithmetic == "bf16"
    sizes = {one.name: (one.bytes or 0) // (2 if narrow and one.kind == 1 else 1) for one in graph.outside}
    return sum(size for name, size in sizes.items() if name not in tables or name in read)


def opened(bundle: Bundle, plan: str, prompts_too: bool, way: str = "") -> OpenVinoBackend | OrtBackend:
    """The back-end of a plan's steps, as ``backends.open_backend`` makes it for a pair or alone, or another ``way``."""
    entry = bundle.entry(plan)
    if way in ("cpu", "cpu.whole", "cpu.blocks"):
        return OrtBackend(bundle, entry, "cpu", only_steps=way != "cpu.whole", in_blocks=way == "cpu.blocks")
    apart, group = entry.quantised is not None and not prompts_too, None
    if entry.quantised is not None and apart:
        group = int(way) if way.isdigit() else ACTIVATION_GROUPS.get(entry.quantised.precision)
    return OpenVinoBackend(
        bundle,
        entry,
        arithmetic="fp32" if apart and way != "bf16" else "auto",
        only_steps=apart,
        narrow_floats=apart and way != "bf16",
        activation_group=group,
        head="own" if way == "head" else None,
    )


def by_operator(profile: Path) -> str:
    """Milliseconds of a step and nodes, by the engine's kinds of operators."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    kinds: dict[str, list[float]] = {}
    if isinstance(events, dict):
        means = [(event["args"]["op_name"], event["dur"]) for event in events["mean"]]
    else:  # ONNX Runtime's: every run, one after the other
        whole = [event["ts"] for event in events if event["name"] == "model_run"][WARM:]
        kernels = [one for one in events if one["name"].endswith("_kernel_time") and one["ts"] >= whole[0]]
        nodes: dict[str, list[Any]] = {}
        for one in kernels:
            nodes.setdefault(one["name"], []).append(one)
        means = [(runs[0]["args"]["op_name"], sum(one["dur"] for one in runs) / len(whole)) for runs in nodes.values()]
    for kind, spent_us in means:
        kinds.setdefault(kind, []).append(spent_us / 1000)
    spent = sorted(((sum(each), len(each), kind) for kind, each in kinds.items()), reverse=True)
    return "\n".join(f"    {total:7.2f} ms  {kind} x {count}" for total, count, kind in spent if total >= LEAST_MS)


if __name__ == "__main__":
    main()
