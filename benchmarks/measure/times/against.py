"""First token, step and memory of this checkout against another one's, in alternating pairs of processes.

``python benchmarks/measure/times/against.py CHECKOUT BUNDLE OTHER_BUNDLE [--pairs 10]``: ``bench`` of each with its own
code and the bundle that it wrote, 30 steps behind a prompt of noise; which goes first takes turns. Prints medians, and
the median of the pairs' ratios (this one by the other) with its 95 % interval, bootstrapped over pairs. Exit code 1
where an interval ends above 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[3]
STEPS, MOST, DRAWS = 30, 1.05, 10_000


def printed(code: Path, words: list[str]) -> str:
    """What Python prints with the package of a checkout; it looks in the working folder before PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=code, stdout=subprocess.PIPE, text=True, check=True).stdout


def measured(code: Path, bundle: Path, options: list[str]) -> dict[str, float]:
    """Milliseconds to the first token and of a step, and MiB at the peak, of one process."""
    words = ["-m", "luvc_export", "bench", str(bundle), "--repeats", "1", "--warm-up", "1", "--json"]
    words += ["--new-tokens", str(STEPS + 1), *options]
    (case,) = json.loads(printed(code, words))["cases"]
    stats = case["stats"]
    step = stats["decode_ms"]["median"] / STEPS
    return {"first token": stats["ttft_ms"]["median"], "step": step, "peak memory": case["facts"]["peak_mib"]}


def main() -> int:
    """Compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("bundle", type=lambda text: Path(text).resolve())
    parser.add_argument("other_bundle", type=lambda text: Path(text).resolve(), help="what the other checkout wrote")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--backend", default="auto")
    asked = parser.parse_args()
    both, options = [(HERE, asked.bundle), (asked.checkout.resolve(), asked.other_bundle)], ["--backend", asked.backend]
    for code, _ in both:
        package = printed(code, ["-c", "import luvc_export; print(luvc_export.__file__)"]).strip()
        if not Path(package).is_relative_to(code):
            parser.error(f"{code} is not what runs, but {package}")
    runs: list[list[dict[str, float]]] = [[], []]
    for number in range(asked.pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            runs[which].append(measured(*both[which], options))
        print(number + 1, "of", asked.pairs, file=sys.stderr, flush=True)
    random, worst = np.random.default_rng(0), 0.0
    for name in runs[0][0]:
        here, there = (np.array([run[name] for run in each]) for each in runs)
        ratios = here / there
        draws = np.median(random.choice(ratios, (DRAWS, len(ratios))), axis=1)
        low, high = np.percentile(draws, (2.5, 97.5))
        worst = max(worst, high)
        medians = f"{np.median(here):.1f} here, {np.median(there):.1f} there"
        print(f"{name}: {medians}, ratio {np.median(ratios):.3f} ({low:.3f} to {high:.3f})")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
