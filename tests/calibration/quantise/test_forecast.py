"""What calibrating takes is told once, before it is done, and as it comes to be."""

from __future__ import annotations

import re
from pathlib import Path
from time import monotonic

import pytest
from slow_cases import slow_but

from luvc_export.bundle import folder as bundles
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.forecast import Forecast
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.core.precision import PRECISIONS


@pytest.mark.parametrize("high", slow_but([[]], [[], ["language_model"]]))
def test_disk_is_what_is_written_and_time_about_what_it_takes(copied_short: Path, high: list[str]) -> None:
    foretold: list[Forecast] = []
    options = {"plan": "thirds", "min_agreement": 0, "threads": 1, "foretell": foretold.append, "keep_high": high}
    data, begin = datasets.load("glyph", count=28), monotonic()
    result = calibrate(bundles.load(copied_short), data, Recipe(PRECISIONS["int8"]), **options)  # type: ignore[arg-type]
    took, (forecast,) = monotonic() - begin, foretold
    manifest = result.bundle.manifest
    entry = manifest.plans[result.plan]
    assert entry.quantised is not None
    assert forecast.disk == pytest.approx(manifest.files[entry.quantised.weights].bytes, rel=0.08 if high else 0.05)
    assert forecast.memory == pytest.approx(4 * manifest.files["weights"].bytes + 2**29, rel=0.05)
    assert took / 10 < forecast.seconds < 10 * took and forecast.most > forecast.seconds
    assert re.fullmatch(
        r"about .* minutes, or .* where answers differ; at most .* GiB of memory, .* on disk", str(forecast)
    )
