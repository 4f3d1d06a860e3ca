"""What ``plan --time`` foretells for each plan's first token against what ``benchmarks/run.py`` measured of it.

Run: python benchmarks/measure/times/first_token_estimate.py OUT [--results results.json], on the machine and beside the
times of that run, with nothing else on it. Prints Markdown: three probes a plan, their median, and the measured median
by it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.runtime.speed_probe.first_token import predicted, probe

TEXT, PROBES = 64, 3


def main() -> None:
    """Probe, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", default="results.json")
    options = parser.parse_args()
    runs = json.loads((options.out / options.results).read_text(encoding="utf-8"))["runs"]
    opened = open_checkpoint(str(options.out / "checkpoint"))
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    plans = [folder.name.removeprefix("bundle-") for folder in options.out.glob("bundle-*")]
    timed = [plan for plan in plans if f"luvc-export {plan}" in runs]
    whole = bundles.load(options.out / "bundle-none").entry("none").plan
    speeds = [probe(whole, llm, encoder) for _ in range(PROBES)]
    print("| plan | foretold s (encoder, LLM) | measured s (LLM) | measured by foretold |")
    print("|---|---:|---:|---:|")
    for name in sorted(timed, key=lambda name: [*runs].index(f"luvc-export {name}")):
        plan = bundles.load(options.out / f"bundle-{name}").entry(name).plan
        predictions = [predicted(plan, llm, encoder, TEXT, speed) for speed in speeds]
        own = runs[f"luvc-export {name}"]
        first = statistics.median(one.seconds for one in predictions)
        halves = [statistics.median(getattr(one, half) for one in predictions) for half in ("encoder", "llm")]
        seconds = statistics.median(value for run in own for value in run["ttft_s"])
        prefill = statistics.median(value for run in own for value in run["prefill_s"])
        print(
            f"| {name} | {first:.2f} ({halves[0]:.2f}, {halves[1]:.2f}) | {seconds:.2f} ({prefill:.2f}) "
            f"| {seconds / first:.2f}x |"
        )
    rates = ", ".join(f"{speed.encoder.flops / 1e9:.0f} and {speed.llm.flops / 1e9:.0f}" for speed in speeds)
    print(f"\nGFLOP/s of the encoder's and the LLM's product, a probe each: {rates}")


if __name__ == "__main__":
    main()
