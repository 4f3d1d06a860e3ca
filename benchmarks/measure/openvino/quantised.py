"""First token and decode of quantised plans on OpenVINO, at the layer shapes of a large model with random weights.

Run: python benchmarks/measure/openvino/quantised.py OUT BUNDLE PLAN [--prepare] [--only VARIANT ...]. Writes
``PLAN`` of ``BUNDLE`` into OUT, and in each variant, then times one process after another, every run about another
picture with another prompt, and prints Markdown. Times that are in OUT stay; what was interrupted goes on. Activations
of a random model say nothing of a real one's, so INT8 takes one range for all (eight times the unit), and four bits
are rounded to nearest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import CalibrationData, PlanEntry
from luvc_export.calibration.quantise.plans import write_plan
from luvc_export.calibration.quantise.quantiser import Quantiser, load
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.core.precision import PRECISIONS

RANGE, TEXT, NEW, RUNS = 8.0, 64, 17, 3
#: Precision and whether the LLM stays in the bundle's own, by variant.
VARIANTS = {"q8": ("q8", False), "q4": ("q4", False), "int8": ("int8", False), "int8 encoder": ("int8", True)}


def prepare(out: Path, source: str, plan: str, variant: str) -> None:
    """Write one variant, once."""
    folder = out / variant.replace(" ", "-")
    if (folder / bundles.MANIFEST).is_file():
        return
    bundle = bundles.load(source)
    name, encoder = VARIANTS[variant]
    entry = bundle.entry(plan)
    products = {file: sites(load(bundle, file).graph) for file in (entry.vision, entry.decoder)}
    seen = {
        site: Statistics(rows=1, largest=np.array([RANGE], np.float32)) for file in products for site in products[file]
    }
    recipe = Recipe(PRECISIONS[name], smooth=0.0, aware=False)
    keep, data = tuple(products[entry.decoder]) if encoder else (), CalibrationData("one range for all", "0" * 64, 0, 0)
    with temporary_folder("luvc-quantise") as scratch:
        quantiser = Quantiser(bundle, plan, recipe, seen, scratch, keep)

        def write(target: Path) -> tuple[PlanEntry, tuple[str, ...]]:
            new = quantiser.write(target, (), data)
            assert new.quantised is not None
            return new, (new.vision, new.decoder, new.quantised.weights)

        write_plan(bundle, quantiser.name, {plan: entry}, (), write, folder, False)


def times(folder: str, plan: str) -> dict[str, Any]:
    """Times of one bundle's plan in this process; the first run does not count."""
    from luvc_export.runtime.bench.case import BenchCase
    from luvc_export.runtime.bench.loaded_case import LoadedCase
    from luvc_export.runtime.bench.machine import bandwidth_reader
    from luvc_export.runtime.openvino.backend import OpenVinoBackend

    case = BenchCase(Path(folder), plan=plan, text=TEXT, new_tokens=NEW, backend="openvino")
    runner, read = LoadedCase(case), bandwidth_reader()
    runner.run(case)
    samples, bandwidths = [], []
    for _ in range(RUNS):
        samples.append(runner.run(case))
        bandwidths.append(read())
    facts = runner.facts(case)
    assert isinstance(runner.backend, OpenVinoBackend)
    products = {graph: _products(nodes) for graph, nodes in runner.backend.precisions().items()}
    shares = [facts.decode_bytes * s.tokens_per_s / limit for s, limit in zip(samples, bandwidths, strict=True)]
    return {
        "ttft_s": [s.ttft_ms / 1000 for s in samples],
        "vision_s": [s.vision_ms / 1000 for s in samples],
        "prefill_s": [s.prefill_ms / 1000 for s in samples],
        "tokens_per_s": [s.tokens_per_s for s in samples],
        "share": shares,
        "gb_a_step": facts.decode_bytes / 1e9,
        "arithmetic": facts.arithmetic,
        "products": products,
    }


def _products(nodes: dict[str, dict[str, int]]) -> dict[str, int]:
    """Products with weights by operator and precision."""
    kinds = ("FullyConnected", "LLMMLP", "QKVProjection")
    return {f"{kind} {precision}": count for kind in kinds for precision, count in nodes.get(kind, {}).items()}


def row(name: str, figures: dict[str, Any]) -> str:
    """Of the table: medians, ranges where they matter."""

    def printed(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    kinds = "; ".join(
        f"{graph}: {', '.join(f'{n} {k}' for k, n in nodes.items())}" for graph, nodes in figures["products"].items()
    )
    cells = [name, *(printed(figures[what]) for what in ("ttft_s", "vision_s", "prefill_s", "tokens_per_s"))]
    return "| " + " | ".join([*cells, f"{figures['gb_a_step']:.2f}", printed(figures["share"]), kinds]) + " |"


def main() -> None:
    """Write, time, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("bundle")
    parser.add_argument("plan")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(times(options.bundle, options.plan)))
        return
    for variant in options.only:
        prepare(options.out, options.bundle, options.plan, variant)
    if options.prepare:
        return
    heads = (
        "plan",
        "first token s",
        "vision s",
        "LLM s",
        "decode tokens/s",
        "GB a step",
        "of the bandwidth",
        "products",
    )
    print("| " + " | ".join(heads) + " |")
    print("|---|---|---|---|---|---|---|---|")
    for name, folder in (
        (options.plan, options.bundle),
        *((v, str(options.out / v.replace(" ", "-"))) for v in options.only),
    ):
        plan = next(
            one for one in bundles.load(folder).manifest.plans if (one == options.plan) == (name == options.plan)
        )
        kept = options.out / f"times.{name.replace(' ', '-')}.json"
        if not kept.is_file():
            command = [sys.executable, __file__, str(options.out), folder, plan, "--one"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            kept.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
        print(row(name, json.loads(kept.read_text(encoding="utf-8"))), flush=True)


if __name__ == "__main__":
    main()
