"""A bundle gains quantised plans: ranges of its own compressed graph, files whole or not at all, clear refusals."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from slow_cases import slow_but
from typer.testing import CliRunner

from luvc_export import load_bundle
from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import datasets
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import agreement, ranges
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.plans import replaced
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.calibration.quantise.weight_packing import read
from luvc_export.calibration.runners import open_bundle, open_openvino
from luvc_export.calibration.runners.base import LOGITS
from luvc_export.calibration.runners.bundle import BundleCalls
from luvc_export.cli import app
from luvc_export.core.precision import PRECISIONS
from luvc_export.errors import CheckFailed, MachineError, UsageError
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.loaded_case import LoadedCase
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.speculation.draft_costs import weight_bytes

PLAN = "thirds"


@pytest.fixture(scope="module")
def data() -> CalibrationSet:
    return datasets.load("glyph", count=28)


@pytest.fixture(scope="module")
def seen(short_bundle: Bundle, data: CalibrationSet) -> dict[str, Statistics]:
    return ranges.collect(short_bundle, PLAN, data, threads=1)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def quantise(bundle: Bundle, seen: dict[str, Statistics], folder: Path, name: str) -> Quantiser:
    return Quantiser(bundle, PLAN, Recipe(PRECISIONS[name], aware=name == "int4"), seen, folder)


def test_ranges_of_a_pruned_layer_come_from_the_tokens_it_keeps(
    short_bundle: Bundle, data: CalibrationSet, seen: dict[str, Statistics]
) -> None:
    plan = short_bundle.entry(PLAN).plan
    images = sum(len(case.images) for case in data.cases)
    rows = [
        next(item.rows for name, item in seen.items() if f"language_model.layers.{layer}.self_attn.q_proj" in name)
        for layer in range(plan.layers)
    ]
    text = rows[-1] - images * plan.keep[-1]
    assert text > 0 and len({plan.vision_tokens, *plan.keep}) > 2
    assert rows == [images * keep + text for keep in plan.keep]


def test_ranges_of_a_pruned_layer_are_those_of_its_own_input(short_bundle: Bundle, data: CalibrationSet) -> None:
    """The norm of the rows that parity sees entering a layer, recomputed, has the channels' magnitudes."""
    entry = short_bundle.entry(PLAN)
    layer = entry.plan.prunes[0][0]
    one = dataclasses.replace(data, cases=data.cases[:1], pixels=data.pixels[:1], longest=1)
    collected = ranges.collect(short_bundle, PLAN, one, threads=1)
    rows = open_bundle(str(short_bundle.folder), PLAN, 1).observe(one.cases)[0].tensors[f"layer {layer} in"]
    name = f"model.language_model.layers.{layer}"
    stored = ir.load(short_bundle.path(entry.decoder)).graph.initializers[f"{name}.input_layernorm.weight"].const_value
    assert isinstance(stored, ir.ExternalTensor)
    normed = rows / np.sqrt(np.square(rows).mean(-1, keepdims=True) + 1e-6) * read(stored).numpy().astype(np.float32)
    statistics = collected[f"{name}.self_attn.q_proj"]
    assert statistics.rows == len(rows) < len(rows) + entry.plan.vision_tokens - entry.plan.keep[layer]
    np.testing.assert_allclose(statistics.largest, np.abs(normed).max(0), rtol=1e-3)


def test_every_product_with_a_weight_is_a_site_and_the_ends_stay_high(short_bundle: Bundle) -> None:
    entry = short_bundle.entry(PLAN)
    products = {}
    for file in (entry.vision, entry.decoder):
        products |= sites(ir.load(short_bundle.path(file)).graph)
    layers = range(entry.plan.layers)
    for part in (
        *(f"self_attn.{letter}_proj" for letter in "qkvo"),
        *(f"mlp.{way}_proj" for way in ("gate", "up", "down")),
    ):
        assert all(f"model.language_model.layers.{layer}.{part}" in products for layer in layers)
    assert any("visual.blocks.0" in name for name in products) and any("merger" in name for name in products)
    assert {name.rsplit(".", 1)[-1] for name, site in products.items() if site.high} == {"proj", "embed_tokens"}
    assert not any("norm" in name for name in products)


@pytest.mark.slow(beside="calibration/quantise/test_quantise_bundle.py::test_openvino_runs_products_on_integer_kernels")
@pytest.mark.parametrize("name", slow_but(["int8", "q4"], ["int8", "fp8", "int4", "nvfp4", "q8", "q4"]))
def test_nothing_changes_where_all_stay_high_and_little_where_none_does(
    short_bundle: Bundle, data: CalibrationSet, seen: dict[str, Statistics], tmp_path: Path, name: str
) -> None:
    quantiser = quantise(short_bundle, seen, tmp_path, name)
    cases = data.cases[:2]
    reference = [item.tensors[LOGITS] for item in open_bundle(str(short_bundle.folder), PLAN, 1).observe(cases)]

    def moved(high: tuple[str, ...]) -> float:
        trial = quantiser.trial(high, data.record)
        logits = [item.tensors[LOGITS] for item in open_bundle(str(trial.folder), quantiser.name, 1).observe(cases)]
        pairs = list(zip(reference, logits, strict=True))
        return float(max(np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in pairs))

    assert moved(quantiser.names) < 1e-5
    assert 1e-4 < moved(()) < 0.5


@pytest.mark.parametrize(
    ("name", "kinds"), slow_but(["int8"], [("int8", {"i8"}), ("q8", {"u8", "i8"}), ("q4", {"u4", "i4"})])
)
def test_openvino_runs_products_on_integer_kernels(
    short_bundle: Bundle, data: CalibrationSet, seen: dict[str, Statistics], tmp_path: Path, name: str, kinds: set[str]
) -> None:
    """As the plug-in says after compiling: products with weights are in integers, but the one that is kept high."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    quantiser = quantise(short_bundle, seen, tmp_path, name)
    trial, cases = quantiser.trial((), data.record), data.cases[:2]
    there = open_openvino(str(trial.folder), quantiser.name, 1)
    reference = [item.tensors[LOGITS] for item in open_bundle(str(short_bundle.folder), PLAN, 1).observe(cases)]
    observed = [item.tensors[LOGITS] for item in there.observe(cases)]
    assert max(np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(reference, observed, strict=True)) < 0.5
    assert isinstance(there.calls, BundleCalls) and isinstance(there.calls.free, OpenVinoBackend)
    for products in (graph["FullyConnected"] for graph in there.calls.free.precisions().values()):
        assert sum(products.get(kind, 0) for kind in kinds) >= 10
        assert sum(products.values()) - sum(products.get(kind, 0) for kind in kinds) <= 6  # the first, scores


@pytest.mark.slow(beside="calibration/quantise/test_quantise_bundle.py::test_openvino_runs_products_on_integer_kernels")
@pytest.mark.skipif(find_spec("openvino") is None, reason="pip install 'luvc-export[openvino]'")
def test_an_int8_encoder_with_a_bf16_llm_is_one_plan(
    short_bundle: Bundle, data: CalibrationSet, seen: dict[str, Statistics], tmp_path: Path
) -> None:
    if "bf16" not in devices.find("CPU").arithmetics:
        pytest.skip("this CPU has no bf16")
    quantiser = quantise(short_bundle, seen, tmp_path, "int8")
    trial = quantiser.trial(tuple(name for name in quantiser.names if "language_model" in name), data.record)
    backend = OpenVinoBackend(trial, trial.entry(quantiser.name), arithmetic="bf16", threads=1)
    backend.load()
    precisions = {graph: kinds["FullyConnected"] for graph, kinds in backend.precisions().items()}
    assert (
        precisions["vision"]["i8"] >= 10 and "i8" not in precisions["decoder"] and precisions["decoder"]["bf16"] >= 14
    )


@pytest.fixture(scope="module")
def quantised(
    short_bundle: Bundle, data: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Path]:
    """The short bundle with an INT8 plan, and the cache of its ranges."""
    folder = tmp_path_factory.mktemp("quantised")
    file = folder / "ranges.npz"
    recipe = Recipe(PRECISIONS["int8"])
    options = {"plan": PLAN, "min_agreement": 0.5, "ranges_file": file, "threads": 1}
    return calibrate(short_bundle, data, recipe, output=folder / "bundle", **options).bundle, file  # type: ignore[arg-type]


def test_the_plan_lies_beside_the_others_and_answers(quantised: tuple[Bundle, Path], data: CalibrationSet) -> None:
    bundle = bundles.load(quantised[0].folder, full=True)
    entry = bundle.entry(f"{PLAN}_int8")
    assert entry.quantised is not None and entry.quantised.data == data.record
    assert (entry.vision, entry.decoder) == (f"vision.{PLAN}_int8.onnx", f"decoder.{PLAN}_int8.onnx")
    assert set(entry.quantised.layers.values()) == {"int8", "fp32"} and entry.quantised.recipe["range"] == "max"
    assert entry.plan == bundle.entry(PLAN).plan and bundle.manifest.default_plan != f"{PLAN}_int8"
    sizes = [bundle.manifest.files[name].bytes for name in ("weights", entry.quantised.weights)]
    assert sizes[1] < 0.6 * sizes[0]
    case = data.cases[0]
    answer = load_bundle(bundle.folder, "cpu", plan=f"{PLAN}_int8", threads=1).generate(case.images, case.prompt)
    assert answer.text


def test_bench_counts_the_bytes_a_step_reads(quantised: tuple[Bundle, Path]) -> None:
    """A byte a weight of the layers, four of the head, which is kept high; and four of all without quantisation."""
    shape, case = (
        quantised[0].manifest.decoder,
        BenchCase(quantised[0].folder, plan=PLAN, backend="cpu", new_tokens=2, text=8, threads=1),
    )
    head, read = shape.hidden * shape.vocab, []
    for plan in (PLAN, f"{PLAN}_int8"):
        each = dataclasses.replace(case, plan=plan)
        runner = LoadedCase(each)
        runner.run(each)
        facts = runner.facts(each)
        read.append(facts.decode_bytes - round(facts.kv_mib * 2**20))
    assert read[0] == weight_bytes(quantised[0].manifest, 32)
    assert read[1] == (read[0] - 4 * head) // 4 + 4 * head


@pytest.mark.slow(beside="calibration/quantise/test_quantise.py::test_the_search_keeps_high_only_what_is_needed")
def test_where_only_high_products_agree_no_plan_is_added(
    copied_short: Path, quantised: tuple[Bundle, Path], data: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search asks no agreement of everything high, which is the plan itself."""
    monkeypatch.setattr(agreement, "share", lambda comparison: 0.25)
    before, few = contents(copied_short), ["visual", r"layers\.1", "attn"]
    options = {"plan": PLAN, "ranges_file": quantised[1], "threads": 1, "keep_high": few}
    with pytest.raises(
        CheckFailed, match=r"(?s)no product can be quantised .*--retention 0.99.*0.2500 of 14"
    ) as failed:
        calibrate(bundles.load(copied_short), data, Recipe(PRECISIONS["int8"]), **options)  # type: ignore[arg-type]
    assert failed.value.exit_code == 1 and contents(copied_short) == before


def test_a_quantised_plan_is_not_quantised_again(quantised: tuple[Bundle, Path], data: CalibrationSet) -> None:
    with pytest.raises(UsageError, match="quantised already"):
        calibrate(quantised[0], data, Recipe(PRECISIONS["int4"]), plan=f"{PLAN}_int8")
    with pytest.raises(UsageError, match="--overwrite"):
        calibrate(quantised[0], data, Recipe(PRECISIONS["int8"]), plan=PLAN)


@pytest.mark.slow(beside="bundle/test_replacing.py::test_killed_at_each_step_nothing_is_lost_and_nothing_left")
def test_a_plan_that_is_replaced_takes_along_what_read_its_files(
    quantised: tuple[Bundle, Path], data: CalibrationSet, tmp_path: Path
) -> None:
    """Its caches' scales are of the weights before; no other plan is touched."""
    first = tmp_path / "bundle"
    shutil.copytree(quantised[0].folder, first)
    name = f"{PLAN}_int8"
    options = {"plan": name, "min_agreement": 0, "threads": 1}
    stored = calibrate_caches(bundles.load(first), data, "int8", **options).bundle  # type: ignore[arg-type]
    bundles.write_manifest(first, dataclasses.replace(stored.manifest, default_plan=f"{name}_kv8"))
    here = bundles.load(first)
    before = contents(first)
    again = {"plan": PLAN, "min_agreement": 0, "ranges_file": quantised[1], "threads": 1, "overwrite": True}
    recipe = Recipe(PRECISIONS["int8"], smooth=0.25)
    result = calibrate(here, data, recipe, output=tmp_path / "other", **again)  # type: ignore[arg-type]
    written = bundles.load(result.bundle.folder, full=True).manifest
    assert result.dropped == (f"{name}_kv8",) and written.default_plan == name
    assert written.plans.keys() == here.manifest.plans.keys() - {f"{name}_kv8"}
    assert f"decoder.{name}_kv8.onnx" not in contents(result.bundle.folder)
    after = contents(result.bundle.folder)
    assert after[f"weights.{name}"] != before[f"weights.{name}"]
    assert after[f"decoder.{PLAN}.onnx"] == before[f"decoder.{PLAN}.onnx"]
    assert contents(first) == before


@pytest.mark.slow(
    beside="calibration/quantise/test_quantise_bundle.py::test_ranges_of_a_pruned_layer_come_from_the_tokens_it_keeps"
)
def test_cached_ranges_come_back_and_those_of_another_model_do_not(
    short_bundle: Bundle, quantised: tuple[Bundle, Path], data: CalibrationSet
) -> None:
    half = data.split()[0]
    wanted = ranges.description(short_bundle, PLAN, half)
    cached = ranges.load_ranges(quantised[1], wanted)
    again = ranges.collect(short_bundle, PLAN, half, threads=1)
    assert cached.keys() == again.keys()
    for name, item in again.items():
        assert cached[name].rows == item.rows
        np.testing.assert_array_equal(cached[name].largest, item.largest)
        np.testing.assert_array_equal(cached[name].counts, item.counts)
    manifest = short_bundle.manifest
    other = Bundle(
        short_bundle.folder,
        dataclasses.replace(manifest, source=dataclasses.replace(manifest.source, sha256="f" * 64)),
    )
    for bundle, plan, cases, other_of in (
        (other, PLAN, half, "another model"),
        (short_bundle, "none", half, "another plan"),
        (short_bundle, PLAN, data, "another data set"),
    ):
        with pytest.raises(UsageError, match=f"cached ranges are of {other_of}"):
            ranges.load_ranges(quantised[1], ranges.description(bundle, plan, cases))
    with pytest.raises(UsageError, match="no cache of ranges"):
        ranges.load_ranges(short_bundle.path("tokenizer.json"), wanted)


def test_nvfp4_is_measured_on_a_stand_in_and_written_as_tensorrt_reads_it(
    short_bundle: Bundle, data: CalibrationSet, seen: dict[str, Statistics], tmp_path: Path
) -> None:
    quantiser = quantise(short_bundle, seen, tmp_path, "nvfp4")
    entry = quantiser.write(tmp_path, (), data.record)
    graph = ir.load(tmp_path / entry.decoder).graph
    dynamic = [node for node in graph if node.op_type == "TRT_FP4DynamicQuantize"]
    kinds = [value.dtype for value in graph.initializers.values()]
    assert len(dynamic) == kinds.count(ir.DataType.FLOAT4E2M1) == kinds.count(ir.DataType.FLOAT8E4M3FN) > 8
    assert graph.opset_imports["trt"] == 1 and entry.quantised is not None
    assert "simulated" not in entry.quantised.recipe
    manifest = dataclasses.replace(short_bundle.manifest, plans={**short_bundle.manifest.plans, quantiser.name: entry})
    with pytest.raises(MachineError, match=r"ONNX Runtime has no operators for this precision(.|\n)*nvfp4"):
        OrtBackend(Bundle(tmp_path, manifest), entry)


@pytest.mark.slow(beside="calibration/quantise/test_quantise.py::test_the_search_keeps_high_only_what_is_needed")
def test_the_search_runs_on_real_graphs_and_the_map_is_written(
    demo_bundle: Bundle, data: CalibrationSet, tmp_path: Path
) -> None:
    """Ranges cut to the median break the last layer; the search must find sites of it to keep high."""
    recipe = Recipe(PRECISIONS["int8"], "percentile", 50, smooth=0)
    report = calibrate(
        demo_bundle,
        data,
        recipe,
        plan=PLAN,
        min_agreement=0.95,
        keep_high=[
            r"visual",
            rf"layers\.[0-{demo_bundle.entry(PLAN).plan.layers - 2}]\.",
            "layers.*mlp.gate",
            "o_proj",
        ],
        output=tmp_path / "bundle",
        threads=1,
    )
    assert report.found.trials[0].agreement < 0.95 <= report.found.agreement
    assert 0 < len(report.found.high) <= 2
    entry = report.bundle.entry(report.plan)
    assert entry.quantised is not None
    assert {name for name, kind in entry.quantised.layers.items() if kind == "int8"}.isdisjoint(report.found.high)


@pytest.mark.slow(
    beside="calibration/quantise/test_modelopt_backend.py::test_a_failing_worker_leaves_the_bundle_as_it_was"
)
def test_an_interrupted_run_leaves_the_bundle_as_it_was(copied_short: Path, data: CalibrationSet) -> None:
    before = contents(copied_short)

    def stop(stage: str, done: float) -> None:
        if stage.startswith("agreement"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(bundles.load(copied_short), data, Recipe(PRECISIONS["q8"]), plan=PLAN, threads=1, progress=stop)
    assert contents(copied_short) == before
    assert [path.name for path in copied_short.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--precision", "int8"], "calibration needs data"),
        (["--precision", "int8", "--data", "EMPTY"], "the calibration set is empty"),
        (["--precision", "int8", "--data", "TORN", "--prompt", "what?"], "damaged or truncated"),
        (["--precision", "int8", "--data", "SAME", "--prompt", "what?"], "all pictures of the calibration set"),
        (["--precision", "int9", "--data", "glyph"], "unsupported precision"),
        (["--precision", "fp8", "--data", "glyph", "--target", "jetson-agx-orin-jp72"], "cannot run this precision"),
        (["--precision", "int8", "--data", "glyph", "--min-agreement", "2"], "no such share"),
        (["--precision", "q4f16", "--data", "glyph"], "needs a bundle of dtype fp16"),
        (["--precision", "int8", "--data", "glyph", "--keep-high", "nothing", "--count", "28"], "no product matches"),
        (["--precision", "q8", "--data", "glyph", "--quantise-too", "q_proj", "--count", "28"], "--quantise-too"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    copied_short: Path, tmp_path: Path, options: list[str], refusal: str
) -> None:
    rng = np.random.default_rng(0)
    from PIL import Image

    for name in ("EMPTY", "TORN", "SAME"):
        (tmp_path / name).mkdir()
    picture = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
    for name in "abc":
        picture.save(tmp_path / "SAME" / f"{name}.png")
    shutil.copytree(tmp_path / "SAME", tmp_path / "TORN", dirs_exist_ok=True)
    (tmp_path / "TORN" / "b.png").write_bytes((tmp_path / "SAME" / "b.png").read_bytes()[:60])
    before = contents(copied_short)
    words = [str(tmp_path / word) if word.isupper() else word for word in options]
    result = CliRunner().invoke(app, ["calibrate", str(copied_short), *words, "--threads", "1", "--json"])
    assert isinstance(result.exception, UsageError) and refusal in str(result.exception)
    assert contents(copied_short) == before


def test_a_plan_of_that_name_that_is_not_quantised_takes_no_other_along(demo_bundle: Bundle) -> None:
    manifest = demo_bundle.manifest
    shared = dataclasses.replace(manifest.plans["even"], vision=manifest.plans["none"].vision)
    others, gone = replaced(
        dataclasses.replace(manifest, plans=manifest.plans | {"none_quantized": shared}), "none_quantized"
    )
    assert others == manifest.plans and not gone
