"""Memory of all plans of a bundle open, and of one: `python benchmarks/measure/open_plans.py BUNDLE cpu`.

Each is a process of its own, in which every plan answers about one picture. Memory is what no file backs, after the
last answer, and the most that the process ever held.
"""

from __future__ import annotations

import json
import subprocess
import sys

from luvc_export.bundle.folder import load
from luvc_export.runtime import memory
from luvc_export.runtime.generation.plan_turns import PlanTurns
from luvc_export.runtime.loaded_plan import LoadedPlan


def held(folder: str, backend: str, most: int | None) -> tuple[int, int]:
    """Bytes at the end that no file backs, and the peak."""
    bundle, turns = load(folder), PlanTurns(most)
    opened = [LoadedPlan(bundle, backend, name, threads=1) for name in bundle.manifest.plans]
    for plan in opened:
        plan.turns = turns
        plan.warm_up()
    return memory.anonymous_bytes() or 0, memory.peak_bytes() or 0


def main(folder: str, backend: str, *most: str) -> None:
    """Print a line for each number of plans that stay open."""
    if most:
        print(json.dumps(held(folder, backend, int(most[0]) or None)))
        return
    for count in ("0", "1"):
        command = [sys.executable, __file__, folder, backend, count]
        own, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{'all' if count == '0' else 'one'} open: {own / 2**20:.0f} MiB of its own, peak {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
