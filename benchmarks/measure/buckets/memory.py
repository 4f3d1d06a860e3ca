"""Memory of a session as its buckets open one after another: `python benchmarks/measure/buckets/memory.py BUNDLE cpu`.

The first row is the plan in a bundle without buckets, in a process of its own; then come pictures of ever fewer novel
units, largest bucket first, and all of it once more. Memory is what no file backs, and the share of pages of files (a
page that is mapped twice counts once), after each answer. `--open-plans 4` behind it keeps what packs weights open.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from luvc_export.bundle.folder import Bundle, load
from luvc_export.runtime.session import Session


def resident() -> tuple[float, float]:
    """MiB of this process that no file backs, and that files do."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    anonymous, files = (int(fields[name].split()[0]) / 1024 for name in ("Pss_Anon", "Pss_File"))
    return anonymous, files


def page(height: int, width: int, share: float) -> np.ndarray:
    """A picture whose upper rows are noise and whose others are of one colour."""
    canvas = np.full((height, width, 3), 200, np.uint8)
    rows = int(share * height)
    canvas[:rows] = np.random.default_rng(rows).integers(0, 256, (rows, width, 3))
    return canvas


def answers(bundle: Bundle, backend: str, open_plans: int = 1) -> list[tuple[str, float, float, float]]:
    """Plan, MiB of its own and of files, and seconds of each answer."""
    begin = resident()
    session = Session(bundle, backend, threads=1, open_plans=open_plans)
    (height, width), plan, answered = session.size, session.plan, []
    held = sorted(bundle.buckets_of(), reverse=True)
    for units in 2 * (plan.units, *held):
        row = plan.grid[1] / plan.units  # a row of units less, which the colour's first row takes
        started = time.perf_counter()
        answer = session.generate(page(height, width, max(0.0, units / plan.units - row)), "what?", max_new_tokens=2)
        spent, name = time.perf_counter() - started, answer.past.loaded.plan_name
        del answer  # whose caches are memory too
        own, files = (value - before for value, before in zip(resident(), begin, strict=True))
        answered.append((name, own, files, spent))
    return answered


def main(folder: str, backend: str, *more: str) -> None:
    """Print a row for each picture."""
    bundle = load(folder)
    if more == ("alone",):
        name = bundle.manifest.default_plan
        alone = Bundle(
            bundle.folder, replace(bundle.manifest, plans={name: replace(bundle.entry(name), variant_of=None)})
        )
        print(json.dumps(answers(alone, backend)[-1]))
        return
    open_plans = int(more[1]) if more[:1] == ("--open-plans",) else 1
    command = [sys.executable, __file__, folder, backend, "alone"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    _, own, files, spent = json.loads(printed.splitlines()[-1])
    print("| plan | MiB of its own | MiB of files | against the plan alone | seconds |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| without buckets | {own:.0f} | {files:.0f} | 1.00x | {spent:.1f} |", flush=True)
    first = own + files
    for name, own, files, spent in answers(bundle, backend, open_plans):
        print(f"| {name} | {own:.0f} | {files:.0f} | {(own + files) / first:.2f}x | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
