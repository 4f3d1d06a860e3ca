"""The worst products of a four-bit plan get eight bits: chosen by what they do to predictions, run by both engines."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import datasets
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import ranges
from luvc_export.calibration.quantise.bisect import fewest_wide
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.calibration.runners import open_bundle, open_openvino
from luvc_export.calibration.runners.base import LOGITS, Runner
from luvc_export.cli import app
from luvc_export.core.precision import PRECISIONS
from luvc_export.errors import UsageError
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.loaded_case import LoadedCase

PLAN = "thirds"
#: By product: its numbers, and what rounding it to four bits does.
PRODUCTS = {
    "llm.layers.0.v": (10, 0.2),
    "llm.layers.0.down": (1000, 0.3),
    "llm.layers.1.v": (50, 0.1),
    "llm.layers.1.down": (10, 0.0),
    "visual.blocks.0.qkv": (10, 0.01),
    "visual.merger": (10, 0.01),
}
WORST = ("llm.layers.0.v", "llm.layers.1.v", "llm.layers.0.down")


def chosen(wanted: float, floor: float = 0.0) -> tuple[tuple[str, ...], list[str]]:
    """What is chosen where damages add up, and which products were tried alone."""
    tried: list[str] = []

    def alone(names: Collection[str]) -> float:
        tried.extend(names if len(names) == 1 else ())
        return sum(PRODUCTS[name][1] for name in names)

    def moved(wide: Collection[str]) -> float:
        return floor + alone([name for name in PRODUCTS if name not in wide])

    return fewest_wide({name: size for name, (size, _) in PRODUCTS.items()}, alone, moved, wanted), tried


def test_the_worst_for_their_size_are_widened_until_it_is_enough() -> None:
    assert chosen(0.7) == ((), [])
    for count, wanted in ((1, 0.45), (3, 0.2), (3, 0.05)):
        assert chosen(wanted)[0] == WORST[:count]
    assert set(chosen(0.01)[0]) == set(PRODUCTS) - {"llm.layers.1.down"}


def test_products_of_blocks_that_do_little_are_not_tried_one_by_one() -> None:
    _, tried = chosen(0.45)
    assert {"llm.layers.0.v", "llm.layers.0.down"} < set(tried)
    assert not {"llm.layers.1.v", "llm.layers.1.down"} & set(tried)
    assert tried.count("visual.merger") == 1  # a block of its own, and no more


def test_where_eight_bits_everywhere_are_not_enough_near_them_is() -> None:
    assert chosen(0.05, floor=0.1)[0] == WORST[:3]
    assert chosen(0.05, floor=2.0)[0] == WORST[:1]  # 2.42 of 2.5


@pytest.fixture(scope="module")
def data() -> CalibrationSet:
    """Four cases about two pictures."""
    data = datasets.load("glyph", count=28)
    return replace(data, cases=data.cases[::7], pixels=data.pixels[::7])


@pytest.fixture(scope="module")
def seen(unpadded_bundle: Bundle, data: CalibrationSet) -> dict[str, Statistics]:
    return ranges.collect(unpadded_bundle, PLAN, data, threads=1)


@pytest.fixture(scope="module")
def quantiser(
    unpadded_bundle: Bundle, seen: dict[str, Statistics], tmp_path_factory: pytest.TempPathFactory
) -> Quantiser:
    recipe = Recipe(PRECISIONS["q4"], aware=False)
    return Quantiser(unpadded_bundle, PLAN, recipe, seen, tmp_path_factory.mktemp("wide"))


def off(runner: Runner, reference: Runner, data: CalibrationSet) -> float:
    """Largest distance of logits, by their length."""
    pairs = [[item.tensors[LOGITS] for item in one.observe(data.cases[:2])] for one in (reference, runner)]
    return float(max(np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(*pairs, strict=True)))


def test_products_of_both_widths_stand_in_one_graph(
    unpadded_bundle: Bundle, data: CalibrationSet, quantiser: Quantiser
) -> None:
    reference = open_bundle(str(unpadded_bundle.folder), PLAN, 1)
    half = quantiser.names[::2]
    errors = []
    for wide in ((), half, quantiser.names):
        quantiser.wide = wide
        trial = quantiser.trial((), data.record)
        entry = trial.entry(quantiser.name)
        widths = [
            node.attributes.get_int("bits")
            for file in (entry.vision, entry.decoder)
            for node in ir.load(trial.path(file)).graph
            if node.op_type == "MatMulNBits"
        ]
        assert widths.count(8) >= len(wide) and (widths.count(4) == 0) == (wide == quantiser.names)
        assert entry.quantised is not None
        assert {name for name, kind in entry.quantised.layers.items() if kind == "int8"} == set(wide)
        errors.append(off(open_bundle(str(trial.folder), quantiser.name, 1), reference, data))
    assert errors[2] < 0.05 and 2 * errors[2] < errors[0] and errors[1] < errors[0]


@pytest.mark.skipif(find_spec("openvino") is None, reason="pip install 'luvc-export[openvino]'")
def test_openvino_reads_both_widths(unpadded_bundle: Bundle, data: CalibrationSet, quantiser: Quantiser) -> None:
    quantiser.wide = quantiser.names
    trial = quantiser.trial((), data.record)
    reference = open_bundle(str(unpadded_bundle.folder), PLAN, 1)
    assert off(open_openvino(str(trial.folder), quantiser.name, 1), reference, data) < 0.05


@pytest.mark.slow(beside="calibration/quantise/test_widening.py::test_products_of_both_widths_stand_in_one_graph")
def test_a_plan_is_widened_as_far_as_its_predictions_ask(
    unpadded_bundle: Bundle, data: CalibrationSet, tmp_path: Path
) -> None:
    """With products of the first layer left, one of whose weights is spoilt by rounding to nearest."""
    recipe = Recipe(PRECISIONS["q4"], aware=False, divergence=1e-3)
    options = {"plan": PLAN, "min_agreement": 0.0, "threads": 1, "keep_high": ["visual", r"layers\.[1-9]", "k_proj"]}
    report = calibrate(unpadded_bundle, data, recipe, output=tmp_path / "bundle", **options)  # type: ignore[arg-type]
    entry = report.bundle.manifest.plans[report.plan]
    assert entry.quantised is not None and entry.quantised.recipe["divergence"] == "0.001"
    kinds = [kind for kind in entry.quantised.layers.values() if kind != "fp32"]
    assert "int8" in kinds and set(kinds) <= {"int8", "q4"}
    case = BenchCase(report.bundle.folder, plan=report.plan, backend="cpu", new_tokens=2, text=8, threads=1)
    runner = LoadedCase(case)
    runner.run(case)
    assert runner.facts(case).decode_bytes > 0


def test_what_is_refused(unpadded_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no such divergence"):
        Recipe(PRECISIONS["q4"], divergence=float("nan"))
    words = ["calibrate", str(unpadded_bundle.folder), "--data", "glyph", "--precision", "int8", "--divergence", "0.1"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError) and "this option would change nothing" in str(result.exception)
