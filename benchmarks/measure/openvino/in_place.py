"""A plan's decoder with weights read where the file lies, against weights that OpenVINO packs: prompts, steps, memory.

Run: python benchmarks/measure/openvino/in_place.py BUNDLE PLAN [--prompts 8] [--steps 30]

BUNDLE holds weights in bf16. Both ways answer once about a picture of noise; then the calls they made, the prompt's and
a step's, are made again in turns, on the same inputs. A process of its own for each way says its peak of memory and its
first answer. Prints Markdown: median milliseconds, the median ratio and its 95 % interval over pairs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from luvc_export.runtime import memory
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.loaded_case import LoadedCase
from luvc_export.runtime.openvino import device as devices

WAYS = {"packed": list[str], "in place": devices.cpu_features}


def loaded(way: str, case: BenchCase) -> LoadedCase:
    """A session that answered once."""
    devices.cpu_features = WAYS[way]
    runner = LoadedCase(case)
    runner.run(case)
    if bool(runner.backend.in_place) != (way == "in place"):
        sys.exit("weights are read in place where they are stored in bf16 and the CPU has AMX: not here")
    return runner


def calls(runner: LoadedCase, case: BenchCase) -> tuple[Any, Any]:
    """Inputs of a prompt and of a step."""
    seen: list[Any] = []
    own = runner.backend.decode

    def decode(feeds: Any, cache: Any) -> Any:
        seen.append((dict(feeds), cache))
        return own(feeds, cache)

    runner.backend.decode = decode  # type: ignore[method-assign]
    runner.run(case)
    runner.backend.decode = own  # type: ignore[method-assign]
    return max(seen, key=lambda call: call[0]["input_ids"].size), seen[-1]


def row(name: str, runners: dict[str, LoadedCase], inputs: dict[str, Any], pairs: int) -> str:
    """One line of the table."""
    times: dict[str, list[float]] = {way: [] for way in runners}
    for pair in range(pairs + 1):
        for way in (*runners,) if pair % 2 else (*reversed(runners),):
            begin = perf_counter()
            runners[way].backend.decode(*inputs[way])
            times[way] += [perf_counter() - begin] if pair else []
    ratios, random = np.array(times["in place"]) / np.array(times["packed"]), np.random.default_rng(0)
    low, high = np.quantile([np.median(random.choice(ratios, len(ratios))) for _ in range(1000)], (0.025, 0.975))
    cells = [f"{1000 * np.median(times[way]):.0f}" for way in times]
    return f"| {name} | {' | '.join(cells)} | {np.median(ratios):.3f} ({low:.3f} to {high:.3f}) |"


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("plan")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    case = BenchCase(args.bundle, plan=args.plan, text=64, new_tokens=5, backend="openvino", arithmetic="bf16")
    if args.one:
        begin = perf_counter()
        loaded(args.one, case)
        print(f"{(memory.peak_bytes() or 0) / 2**30:.2f} {perf_counter() - begin:.1f}")
        return
    print("| " + " | ".join((args.plan, *WAYS, "in place by packed")) + " |\n|---|---:|---:|---|")
    alone = []
    for way in WAYS:
        command = [sys.executable, __file__, str(args.bundle), args.plan, "--one", way]
        alone.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:])
    for what, values in zip(("peak GiB", "load and first answer s"), zip(*alone, strict=True), strict=True):
        print(f"| {what} | {' | '.join(values)} | {float(values[1]) / float(values[0]):.3f} |", flush=True)
    runners = {way: loaded(way, case) for way in WAYS}
    inputs = {way: calls(runner, case) for way, runner in runners.items()}
    for index, (name, pairs) in enumerate((("prompt ms", args.prompts), ("step ms", args.steps))):
        print(row(name, runners, {way: both[index] for way, both in inputs.items()}, pairs), flush=True)


if __name__ == "__main__":
    main()
