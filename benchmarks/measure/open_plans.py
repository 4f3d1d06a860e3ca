"""Memory of all plans of a bundle open, and of one: `python benchmarks/measure/open_plans.py BUNDLE cpu`.

Each is a process of its own, in which every plan answers about one picture. Memory is what no file backs, after the
last answer, and the most that the process ever held; the token is the first plan's, median of 20 steps. On `cpu` a
last line has all plans read weights as they lie, as buckets do (`luvc_export/runtime/sharing`), where that is possible.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from luvc_export.bundle.folder import load
from luvc_export.runtime import memory, ort
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.loaded_plan import LoadedPlan

#: What a line is called, by how many plans stay open (0 for all).
LINES = {"0": "all open", "1": "one open", "shared": "all open, weights as they lie"}
STEPS = 20


def held(folder: str, backend: str, way: str) -> tuple[int, int, float]:
    """Bytes at the end that no file backs, the peak, and milliseconds of a token."""
    if way == "shared":
        ort.shares = lambda bundle, entry, device: bundle.manifest.dtype == "fp32" and entry.quantised is None
    bundle, turns = load(folder), PlanResidency(1 if way == "1" else None)
    opened = [LoadedPlan(bundle, backend, name, threads=1) for name in bundle.manifest.plans]
    for plan in opened:
        plan.residency = turns
        plan.warm_up()
    figures = memory.anonymous_bytes() or 0, memory.peak_bytes() or 0
    graphs, taken = opened[0].graphs, []
    step = graphs.run(list(range(40, 104)))
    for _ in range(STEPS):
        begin = time.perf_counter()
        step = graphs.run([40], state=step.state)
        taken.append(1000 * (time.perf_counter() - begin))
    return *figures, float(np.median(taken))


def main(folder: str, backend: str, way: str = "") -> None:
    """Print a line for each way."""
    if way:
        print(json.dumps(held(folder, backend, way)))
        return
    for one, line in LINES.items():
        if one != "shared" or backend == "cpu":
            command = [sys.executable, __file__, folder, backend, one]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            own, peak, token = json.loads(ran.stdout)
            print(
                f"{line}: {own / 2**20:,.0f} MiB of its own, peak {peak / 2**20:,.0f} MiB, a token {token:.1f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
