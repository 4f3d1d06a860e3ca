"""``luvc-export calibrate``: what its JSON says is what the bundle has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Cli

from luvc_export.bundle import folder as bundles

PLAN = "thirds"


@pytest.mark.slow(beside="calibration/quantise/test_quantise_bundle.py::test_openvino_runs_products_on_integer_kernels")
def test_the_command_says_what_it_did(cli: Cli, copied_bundle: Path) -> None:
    words = ["--precision", "q8", "--data", "glyph", "--count", "28", "--plan", PLAN, "--min-agreement", "0.5"]
    words += ["--quantise-too", "embed_tokens"]
    code, out, err = cli("calibrate", copied_bundle, *words, "--threads", "1", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert (
        record["plan"] == f"{PLAN}_quantized"
        and record["agreement"] >= 0.5
        and record["needed"] == record["dropped"] == []
    )
    assert f"decoder.{PLAN}_quantized.onnx" in {path.name for path in copied_bundle.iterdir()}
    quantised = bundles.load(copied_bundle).entry(record["plan"]).quantised
    assert quantised is not None and quantised.layers["model.language_model.embed_tokens"] == "q8"
