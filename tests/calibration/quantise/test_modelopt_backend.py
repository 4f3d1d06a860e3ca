"""``calibrate --backend modelopt`` from end to end, with a stand-in for the worker."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from typer.testing import CliRunner

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import datasets
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import agreement, ranges
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.modelopt import backend, graph
from luvc_export.calibration.quantise.modelopt.backend import ModelOpt
from luvc_export.calibration.quantise.quantiser import Quantiser, load
from luvc_export.calibration.quantise.recipe import Recipe, Scales
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.runners import open_bundle
from luvc_export.cli import app
from luvc_export.core import graph_io
from luvc_export.core.precision import PRECISIONS
from luvc_export.errors import MachineError, UsageError

PLAN = "thirds"
STAND_IN = Path(__file__).with_name("modelopt_stand_in.py")
RECIPE = Recipe(PRECISIONS["int8"], smooth=0)


@pytest.fixture(scope="module")
def data() -> CalibrationSet:
    return datasets.load("glyph", count=28)


def modelopt(worker: Path = STAND_IN) -> ModelOpt:
    return ModelOpt(Path(sys.executable), worker)


def changed(folder: Path, old: str, new: str) -> Path:
    """A copy of the stand-in that does something else."""
    text = STAND_IN.read_text()
    assert text.count(old) == 1
    path = folder / "changed.py"
    path.write_text(text.replace(old, new))
    return path


def graphs(bundle: Bundle) -> dict[str, ir.Model]:
    entry = bundle.entry(PLAN)
    return {"vision": load(bundle, entry.vision), "decoder": load(bundle, entry.decoder)}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def of_modelopt(short_bundle: Bundle, data: CalibrationSet) -> dict[str, Scales | str]:
    return modelopt().scales(graphs(short_bundle), RECIPE, short_bundle, PLAN, data.split()[0], threads=1)


def test_the_graph_goes_out_whole_with_plain_named_products(
    short_bundle: Bundle, data: CalibrationSet, tmp_path: Path
) -> None:
    """Without functions, a weight of fp32 [K, N] at every product, and the logits of the bundle's own graph."""
    folders = {name: tmp_path / name for name in ("vision", "decoder")}
    for name, model in graphs(short_bundle).items():
        folders[name].mkdir()
        wanted = {at: site for at, site in sites(model.graph).items() if not site.high}
        weights = {at: site.values() for at, site in wanted.items()}
        products = graph.write(model, folders[name])
        assert {product.site for product in products.values()} == wanted.keys()
        proto = onnx.load(str(folders[name] / graph.GRAPH))
        assert not proto.functions and all(not node.domain for node in proto.graph.node)
        stored = {item.name: item for item in proto.graph.initializer}
        nodes = {node.name: node for node in proto.graph.node if node.name in products}
        assert nodes.keys() == products.keys() and all(node.op_type == "MatMul" for node in nodes.values())
        for product, node in nodes.items():
            array = onnx.numpy_helper.to_array(stored[node.input[1]])
            assert array.dtype == np.float32 and array.shape[1] == products[product].columns
            np.testing.assert_array_equal(array, weights[products[product].site])
    few = dataclasses.replace(data, cases=data.cases[:2], pixels=data.pixels[:2], longest=2)
    backend.record_calls(short_bundle, PLAN, few, folders, threads=1)
    own = onnxruntime.InferenceSession(str(short_bundle.path(short_bundle.entry(PLAN).decoder)))
    plain = onnxruntime.InferenceSession(str(folders["decoder"] / graph.GRAPH))
    names = {item.name for item in own.get_inputs()}
    assert names == {item.name for item in plain.get_inputs()}
    with np.load(folders["decoder"] / backend.INPUTS, allow_pickle=False) as file:
        numbers = sorted({key.partition("/")[0] for key in file.files})
        lengths = []
        for number in numbers:
            feeds = {name: file[f"{number}/{name}"] for name in names}
            lengths.append(feeds[graph_io.past_names(1)[0]].shape[2])
            logits = [session.run([graph_io.LOGITS], feeds)[0] for session in (own, plain)]
            np.testing.assert_allclose(logits[1], logits[0], rtol=1e-3, atol=1e-3)
    assert lengths.count(0) == 2 and len(numbers) > 2  # a prefill each, and steps with what came before


def test_sites_that_stay_high_are_not_asked_about(short_bundle: Bundle, tmp_path: Path) -> None:
    model = graphs(short_bundle)["decoder"]
    names = list(sites(model.graph))
    kept = next(name for name in names if "down_proj" in name)
    products = graph.write(model, tmp_path, {kept})
    asked = {product.site for product in products.values()}
    assert kept not in asked and not any("embed_tokens" in name for name in asked) and len(asked) == len(names) - 2


def test_its_ranges_are_those_we_see_ourselves(
    short_bundle: Bundle, data: CalibrationSet, of_modelopt: dict[str, Scales | str]
) -> None:
    """Both sides saw the same calls; a scale doubled on the way would show here."""
    seen = ranges.collect(short_bundle, PLAN, data.split()[0], threads=1)
    assert of_modelopt.keys() <= seen.keys() and len(of_modelopt) > 20
    for name, item in of_modelopt.items():
        assert isinstance(item, Scales)
        np.testing.assert_allclose(item.activation * 127, seen[name].maximum, rtol=1e-3, err_msg=name)


@pytest.mark.slow(beside="calibration/quantise/test_modelopt_backend.py::test_its_ranges_are_those_we_see_ourselves")
def test_a_spoilt_scale_is_seen_by_the_agreement_check(
    demo_bundle: Bundle, data: CalibrationSet, tmp_path: Path
) -> None:
    """Activation scales of four times the size move predictions further; much larger ones change answers.

    In exact arithmetic 0.35, 0.98 and 8.4 nats; scales of twice the size give 0.53, too near to kernels that saturate.
    """
    scales = modelopt().scales(graphs(demo_bundle), RECIPE, demo_bundle, PLAN, data.split()[0], threads=1)
    reference = agreement.Remembered(open_bundle(str(demo_bundle.folder), PLAN, 1))
    held = data.split()[1]
    moved, same = {}, {}
    for factor in (1, 4, 32):
        spoilt = {
            name: Scales(factor * item.activation, item.weight)
            for name, item in scales.items()
            if isinstance(item, Scales)
        }
        (tmp_path / str(factor)).mkdir()
        quantiser = Quantiser(demo_bundle, PLAN, RECIPE, spoilt, tmp_path / str(factor))
        trial = open_bundle(str(quantiser.trial((), data.record).folder), quantiser.name, 1)
        moved[factor] = agreement.moved(reference, trial, held.cases[: agreement.OBSERVED])
        same[factor] = agreement.share(agreement.answers(reference, trial, held))
    assert moved[1] * 2 < moved[4] < moved[32] / 2
    assert same[1] > 0.8 > same[32]


@pytest.mark.slow(beside="calibration/quantise/test_modelopt_backend.py::test_its_ranges_are_those_we_see_ourselves")
def test_the_plan_is_ours_with_its_scales_and_says_whose_they_are(
    short_bundle: Bundle, data: CalibrationSet, of_modelopt: dict[str, Scales | str], tmp_path: Path
) -> None:
    high = next(name for name in of_modelopt if "o_proj" in name)
    kept = next(name for name in of_modelopt if "down_proj" in name)
    worker = changed(tmp_path, "HIGH: list[str] = []", f"HIGH = [{high + '.0'!r}]")
    report = calibrate(
        short_bundle,
        data,
        RECIPE,
        plan=PLAN,
        min_agreement=0,
        keep_high=[f"^{kept}$", "embed_tokens"],
        output=tmp_path / "bundle",
        threads=1,
        modelopt=modelopt(worker),
    )
    entry = bundles.load(report.bundle.folder, full=True).entry(f"{PLAN}_int8")
    assert entry.quantised is not None
    assert entry.quantised.recipe == {"range": "max", "backend": "nvidia-modelopt 0.0.stand-in"}
    assert entry.quantised.layers[high] == entry.quantised.layers[kept] == "fp32"
    quantised = {name for name, kind in entry.quantised.layers.items() if kind == "int8"}
    assert quantised == of_modelopt.keys() - {high, kept}
    scales = {}
    for file in (entry.vision, entry.decoder):
        for name, value in load(report.bundle, file).graph.initializers.items():
            if name.endswith(".input_scale"):
                assert value.const_value is not None
                scales[name.removesuffix(".input_scale")] = float(value.const_value.numpy())
    assert scales.keys() == quantised
    for name in quantised:
        wanted = of_modelopt[name]
        assert isinstance(wanted, Scales)
        np.testing.assert_allclose(scales[name], wanted.activation, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        ('print("0.0.stand-in")', 'sys.exit("nvidia-modelopt is not installed")', "is not installed"),
        (
            "    request = json",
            "    raise ValueError('no such operator')\n    request = json",
            "ValueError: no such operator",
        ),
        ("    request = json", "    import os; os.abort()\n    request = json", "exit code -6"),
    ],
)
def test_a_failing_worker_leaves_the_bundle_as_it_was(
    copied_short: Path,
    data: CalibrationSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    refusal: str,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = contents(copied_short)
    few = dataclasses.replace(data, longest=1)
    with pytest.raises(MachineError, match="nvidia-modelopt failed") as caught:
        worker = modelopt(changed(tmp_path, old, new))
        calibrate(bundles.load(copied_short), few, RECIPE, plan=PLAN, threads=1, modelopt=worker)
    assert refusal in str(caught.value) and caught.value.exit_code == 3
    assert contents(copied_short) == before and not list(scratch.iterdir())


@pytest.mark.slow(
    beside="calibration/quantise/test_modelopt_backend.py::test_a_failing_worker_leaves_the_bundle_as_it_was"
)
def test_an_interrupt_ends_the_worker_and_leaves_the_bundle_as_it_was(
    copied_short: Path, data: CalibrationSet, tmp_path: Path
) -> None:
    """The worker interrupts us while it runs; it must be gone, and nothing written."""
    before, place = contents(copied_short), tmp_path / "worker.pid"
    sleeping = (
        "    import os, signal, time\n"
        f"    Path({str(place)!r}).write_text(str(os.getpid()))\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(600)\n"
        "    request = json"
    )
    few = dataclasses.replace(data, longest=1)
    with pytest.raises(KeyboardInterrupt):
        worker = modelopt(changed(tmp_path, "    request = json", sleeping))
        calibrate(bundles.load(copied_short), few, RECIPE, plan=PLAN, threads=1, modelopt=worker)
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)
    assert contents(copied_short) == before


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--precision", "int8", "--backend", "modelop", "--modelopt-python", "PYTHON"], "did you mean 'modelopt'"),
        (["--precision", "int8", "--backend", "modelopt"], "belong together"),
        (["--precision", "int8", "--modelopt-python", "PYTHON"], "belong together"),
        (["--precision", "fp8", "--backend", "modelopt", "--modelopt-python", "PYTHON"], "expected: int8"),
        (
            ["--precision", "int8", "--range", "percentile", "--backend", "modelopt", "--modelopt-python", "PYTHON"],
            "--range",
        ),
        (
            ["--precision", "int8", "--smooth", "0.5", "--backend", "modelopt", "--modelopt-python", "PYTHON"],
            "--smooth",
        ),
        (
            ["--precision", "int8", "--cache", "x.npz", "--backend", "modelopt", "--modelopt-python", "PYTHON"],
            "--cache",
        ),
        (["--precision", "int8", "--backend", "modelopt", "--modelopt-python", "nowhere/python"], "cannot be run"),
        (
            ["--precision", "int8", "--backend", "modelopt", "--modelopt-python", "PYTHON"],
            "nvidia-modelopt is not installed",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(copied_short: Path, options: list[str], refusal: str) -> None:
    before = contents(copied_short)
    words = [sys.executable if word == "PYTHON" else word for word in options]
    data = ["--data", "glyph", "--count", "28", "--plan", PLAN, "--threads", "1", "--json"]
    ended = CliRunner().invoke(app, ["calibrate", str(copied_short), *words, *data])
    assert isinstance(ended.exception, (UsageError, MachineError)) and refusal in str(ended.exception)
    assert contents(copied_short) == before


def test_a_bundle_in_half_precision_is_refused(short_bundle: Bundle) -> None:
    half = Bundle(short_bundle.folder, dataclasses.replace(short_bundle.manifest, dtype="fp16"))
    with pytest.raises(UsageError, match=r"dtype of the bundle(.|\n)*expected: fp32"):
        modelopt().check(half, RECIPE)
