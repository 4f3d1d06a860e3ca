"""How much of the memory's bandwidth a decode step takes: steps and plain reading in turns.

Run: python benchmarks/measure/kernels/decode_share.py BUNDLE#PLAN[@BACKEND[/ARITHMETIC]] ... Prints Markdown. Bandwidth
of a shared machine halves and doubles within seconds, so beside every step stands one pass over as many bytes as the
step reads, by numpy's matrix times vector with all threads. A share is a pass's time by its step's. One process a plan.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.loaded_case import LoadedCase

ROUNDS, WARM, WIDE = 40, 4, 4096
#: Seconds after a step in which an engine's threads may still spin, and take the cores from what reads beside it.
SPINS = 0.1


def times(asked: str) -> dict[str, Any]:
    """Seconds of steps and passes of one plan, in this process."""
    place, _, how = asked.partition("@")
    folder, _, plan = place.partition("#")
    backend, _, arithmetic = (how or "openvino").partition("/")
    case = BenchCase(Path(folder), plan=plan, new_tokens=2, backend=backend, arithmetic=arithmetic or "auto")
    runner = LoadedCase(case)
    runner.run(case)
    facts, session = runner.facts(case), runner.session
    spec, placeholder = session.bundle.manifest.image, session.bundle.manifest.prompt.image_token_id
    picture = np.random.default_rng(1).integers(0, 256, (1, spec.frames, *spec.size, 3), np.uint8)
    state = session.default.run(
        [*range(100, 132), placeholder, *range(132, 164)], session.default.encode_images(picture)
    ).state
    threads = len(os.sched_getaffinity(0))
    rows = facts.decode_bytes // threads // WIDE // 4
    parts, vector = [np.ones((rows, WIDE), np.float32) for _ in range(threads)], np.ones(WIDE, np.float32)
    turns = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(WARM + ROUNDS):
            sleep(SPINS)
            begin = perf_counter()
            list(pool.map(lambda part: part @ vector, parts))
            middle = perf_counter()
            state = session.default.run([7], state=state).state
            turns.append((middle - begin, perf_counter() - middle))
    return {"turns": turns[WARM:], "bytes": facts.decode_bytes, "backend": f"{facts.backend} {facts.arithmetic}"}


def row(asked: str, figures: dict[str, Any]) -> str:
    """Of the table: medians and the middle half of the shares."""
    passes, steps = zip(*figures["turns"], strict=True)
    shares = statistics.quantiles((read / step for read, step in figures["turns"]), n=4)
    step, read, size = statistics.median(steps), statistics.median(passes), figures["bytes"] / 1e9
    cells = [Path(asked.partition("@")[0]).name, figures["backend"], f"{size:.2f}", f"{1000 * step:.0f}"]
    cells += [f"{size / step:.1f}", f"{size / read:.1f}", f"{shares[1]:.2f} ({shares[0]:.2f} to {shares[2]:.2f})"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Time each plan in a process of its own, and print."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(times(sys.argv[2])))
        return
    heads = ("plan", "back-end", "GB a step", "step ms", "GB/s", "GB/s read", "share: median (middle half)")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for asked in sys.argv[1:]:
        alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its own threads would spin on through the next step
        command = [sys.executable, __file__, "--one", asked]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
        print(row(asked, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
