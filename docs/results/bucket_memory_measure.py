"""Memory of a session as its buckets open one after another: `python docs/results/bucket_memory_measure.py BUNDLE cpu`.

The first row is the plan alone, answering a picture of noise; then come pictures of ever fewer novel units, largest
bucket first, and the plan once more. Memory is what no file backs, and pages of files, which all graphs share.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from luvc_export.runtime.session import Session


def resident() -> tuple[float, float]:
    """MiB of this process that no file backs, and that files do."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    anonymous, files = (int(told[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, files


def page(height: int, width: int, share: float) -> np.ndarray:
    """A picture whose upper rows are noise and whose others are of one colour."""
    made = np.full((height, width, 3), 200, np.uint8)
    rows = int(share * height)
    made[:rows] = np.random.default_rng(rows).integers(0, 256, (rows, width, 3))
    return made


def main(folder: str, backend: str) -> None:
    """Print a row for each picture."""
    begin = resident()
    session = Session(folder, backend, threads=1)
    (height, width), plan = session.size, session.plan
    held = sorted(session.bundle.buckets_of(), reverse=True)
    print("| plan | MiB of its own | MiB of files | against the plan alone | seconds |")
    print("| --- | --- | --- | --- | --- |")
    first = 0.0
    for units in (plan.units, *held, plan.units):
        row = plan.grid[1] / plan.units  # a row of units less, which the colour's first row takes
        started = time.perf_counter()
        found = session.generate(page(height, width, max(0.0, units / plan.units - row)), "what?", max_new_tokens=2)
        spent, name = time.perf_counter() - started, found.past.loaded.plan_name
        del found  # whose caches keep the arena of the graph that made them
        now = resident()
        own, files = (value - before for value, before in zip(now, begin, strict=True))
        first = first or own + files
        print(f"| {name} | {own:.0f} | {files:.0f} | {(own + files) / first:.2f}x | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
