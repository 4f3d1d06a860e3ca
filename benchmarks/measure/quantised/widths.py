"""Trials and time of q4's search for products of eight bits: `python benchmarks/measure/quantised/widths.py BUNDLE 16`.

Quantises the bundle's default plan on as many cases of the task `glyph`, half of them held out, once with four bits
alone (`--divergence inf`) and once with the search, and prints how many trial graphs each wrote and ran, and its
seconds of wall and of CPU. One thread. Statistics of activations are collected once, before, and timed apart.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from luvc_export.bundle.folder import load
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import DIVERGENCE, Recipe
from luvc_export.core.precision import PRECISIONS


def main(folder: str, count: str) -> None:
    """Quantise, and print a line for each way."""
    bundle, data = load(folder), datasets.load("glyph", count=int(count))
    trials: list[tuple[str, ...]] = []
    written = Quantiser.trial

    def counted(self: Quantiser, high: Any, record: Any) -> Any:
        trials.append(high)
        return written(self, high, record)

    Quantiser.trial = counted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as scratch:
        ranges = Path(scratch) / "ranges.npz"
        for divergence in (math.inf, math.inf, DIVERGENCE):
            trials.clear()
            first, wall, own = not ranges.exists(), time.perf_counter(), time.process_time()
            output, recipe = Path(scratch) / "quantised", Recipe(PRECISIONS["q4"], divergence=divergence)
            made = calibrate(
                bundle, data, recipe, min_agreement=0, output=output, ranges_file=ranges, overwrite=True, threads=1
            )
            spent = f"{time.perf_counter() - wall:.0f} s ({time.process_time() - own:.0f} s of CPU)"
            quantised = made.bundle.entry(made.plan).quantised
            assert quantised is not None
            wide = sum(value == "int8" for value in quantised.layers.values())
            what = "ranges, and " if first else ""
            print(
                f"{what}divergence {divergence:g}: {len(trials)} trials, {wide} of {len(quantised.layers)} in 8 bits, "
                f"{spent}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
