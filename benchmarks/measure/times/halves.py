"""First token and decode of one model by engine: alone, and prompts on one engine with steps on another.

Run: ``python benchmarks/measure/times/halves.py OUT BUNDLE PLAN --prepare [--head]``, then the same without it, perhaps
with ``--only PLAN@BACKEND ...``. The first writes the plan in 8 and 4 bits (LLM alone, rounded to nearest; with
``--head`` its head too) beside itself into OUT. The second prints Markdown: one process a way, one after another, each
run about another picture and prompt, and a reading of the memory's bandwidth after each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import CalibrationData
from luvc_export.calibration.quantise.quantiser import Quantiser, load
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.core.precision import PRECISIONS

NEW, RUNS = 17, 2


def prepare(out: Path, source: str, plan: str, head: bool = False) -> None:
    """Write the plan and its two quantised ones into ``out``, once; ``head``: the head is quantised too."""
    if (out / bundles.MANIFEST).is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    bundle = bundles.load(source)
    manifest = bundle.manifest
    for name in manifest.files:
        (out / name).write_bytes((bundle.folder / name).read_bytes())
    entry, plans, files = bundle.entry(plan), {plan: bundle.entry(plan)}, dict(manifest.files)
    kept = tuple(sites(load(bundle, entry.vision).graph))
    inside = sites(load(bundle, entry.decoder).graph)
    seen = {site: Statistics(rows=1, largest=np.array([8.0], np.float32)) for site in inside}
    too = [name for name, site in inside.items() if site.high] if head else []
    for name in ("q8", "q4"):
        recipe = Recipe(PRECISIONS[name], smooth=0.0, aware=False)
        quantiser = Quantiser(bundle, plan, recipe, seen, out, kept, too=too)
        written = quantiser.write(out, (), CalibrationData("none", "0" * 64, 0, 0))
        plans[quantiser.name] = written
        assert written.quantised is not None
        files |= {
            file: bundles.record(out / file) for file in (written.vision, written.decoder, written.quantised.weights)
        }
    weights = bundle.anchored_weights
    bundles.write_manifest(out, dataclasses.replace(manifest, plans=plans, files=files, weights=weights))


def times(folder: str, way: str, images: int) -> dict[str, Any]:
    """Times of one way in this process; the first run does not count."""
    from luvc_export.runtime.bench.case import BenchCase
    from luvc_export.runtime.bench.loaded_case import LoadedCase
    from luvc_export.runtime.bench.machine import bandwidth_reader

    plan, _, backend = way.partition("@")
    case = BenchCase(Path(folder), images, plan=plan, text=64, new_tokens=NEW, backend=backend)
    runner, read = LoadedCase(case), bandwidth_reader()
    runner.run(case)
    samples, rates = [], []
    for _ in range(RUNS):
        samples.append(runner.run(case))
        rates.append(read())
    facts = runner.facts(case)
    share = [facts.decode_bytes * s.tokens_per_s / rate for s, rate in zip(samples, rates, strict=True)]
    return {
        "backend": f"{facts.backend} {facts.arithmetic}",
        "first_ms": [s.ttft_ms for s in samples],
        "prefill_ms": [s.prefill_ms for s in samples],
        "tokens_per_s": [s.tokens_per_s for s in samples],
        "gb": facts.decode_bytes / 1e9,
        "share": share,
        "peak_gib": (facts.peak_mib or 0) / 1024,
        "own_gib": (facts.anonymous_mib or 0) / 1024,
        "load_s": facts.load_ms / 1000,
    }


def row(way: str, measured: dict[str, Any]) -> str:
    """Of the table."""
    first, prefill, speed = (statistics.median(measured[name]) for name in ("first_ms", "prefill_ms", "tokens_per_s"))
    spread = f"{speed:.2f} ({min(measured['tokens_per_s']):.2f} to {max(measured['tokens_per_s']):.2f})"
    cells = [way, measured["backend"], f"{first / 1000:.2f}", f"{prefill / 1000:.2f}", spread, f"{1000 / speed:.0f}"]
    cells += [f"{measured['gb']:.2f}", f"{statistics.median(measured['share']):.2f}", f"{measured['load_s']:.1f}"]
    return "| " + " | ".join([*cells, f"{measured['peak_gib']:.1f}", f"{measured['own_gib']:.1f}"]) + " |"


def main() -> None:
    """Write, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("bundle")
    parser.add_argument("plan")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--head", action="store_true", help="with --prepare: the head in codes too")
    parser.add_argument("--only", nargs="+", metavar="PLAN@BACKEND")
    parser.add_argument("--images", type=int, default=1, help="pictures of a question")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(times(str(args.out), args.one, args.images)))
        return
    if args.prepare:
        prepare(args.out, args.bundle, args.plan, args.head)
        return
    plans = [args.plan, *(name for name in bundles.load(args.out).manifest.plans if name != args.plan)]
    coded = [f"{plan}@{how}" for plan in plans[1:] for how in ("openvino", "cpu", "openvino+openvino", "openvino+cpu")]
    heads = ("plan", "back-end", "first token s", "LLM s", "decode tokens/s", "step ms", "GB a step", "share", "load s")
    heads = (*heads, "peak GiB", "own GiB")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    for way in args.only or [f"{args.plan}@openvino", *coded]:
        command = [sys.executable, __file__, str(args.out), args.bundle, args.plan, "--one", way]
        command += ["--images", str(args.images)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {way} | {(done.stderr.strip().splitlines() or ['ended'])[-1][:120]} |", flush=True)
            continue
        print(row(way, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
