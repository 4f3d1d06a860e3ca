"""Codes of bundles in 16 bits: ``q8``, whose operator knows fp32 alone, so casts stand around it; and of caches."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import datasets
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import ranges
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches, rewritten
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.runners import open_bundle, open_openvino
from luvc_export.calibration.runners.base import LOGITS, Runner
from luvc_export.core.precision import PRECISIONS
from luvc_export.core.shapes import VALUE_SCALE
from luvc_export.demo import IMAGE_SIZE
from luvc_export.engines import targets
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.passes import unpack_heads
from luvc_export.runtime.session import Session

DATA = datasets.load("glyph", count=14)
_SOME = datasets.load("glyph", count=28)
FEW = replace(_SOME, cases=_SOME.cases[::14], pixels=_SOME.pixels[::14])
WITH_OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="pip install 'luvc-export[openvino]'")
#: Codes of 8 bits, one scale a column, through three layers.
NEAR = 0.1


@pytest.mark.slow(beside="calibration/quantise/test_narrow_bundle.py::test_a_bundle_in_bf16_is_measured_in_fp32")
@pytest.mark.parametrize("narrow_bundle", ["fp16"], indirect=True)
def test_q8_is_well_typed_and_near(narrow_bundle: Bundle, tmp_path: Path) -> None:
    seen = ranges.collect(narrow_bundle, "thirds", DATA, threads=1)
    trial = Quantiser(narrow_bundle, "thirds", Recipe(PRECISIONS["q8"]), seen, tmp_path).trial((), DATA.record)
    for file in (trial.entry(None).vision, trial.entry(None).decoder):
        model = onnx.load(tmp_path / file, load_external_data=False)
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        kinds |= {item.name: item.data_type for item in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "DynamicQuantizeMatMul":
                assert kinds.get(node.input[2]) == onnx.TensorProto.FLOAT
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, *IMAGE_SIZE, 3), np.uint8)
    ids, answers = [40, trial.manifest.prompt.image_token_id, 41, 42], []
    for bundle, plan in ((narrow_bundle, "thirds"), (trial, None)):
        session = Session(bundle, "cpu", plan, threads=1)
        answers.append(session.default.run(ids, session.default.encode_images(picture)).logits)
    assert 0 < np.linalg.norm(answers[1] - answers[0]) < NEAR * np.linalg.norm(answers[0])


@WITH_OPENVINO
@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_a_bundle_in_bf16_is_measured_in_fp32(narrow_bundle: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime computes nothing in bf16; what OpenVINO runs is the bundle's own type, in codes too."""
    wide, own = (one(str(narrow_bundle.folder), "thirds", 1) for one in (open_bundle, open_openvino))
    assert own.dtype == "fp32" and off(wide, own, FEW) < NEAR / 10
    seen = ranges.collect(narrow_bundle, "thirds", FEW, threads=1)
    trial = Quantiser(narrow_bundle, "thirds", Recipe(PRECISIONS["q8"]), seen, tmp_path).trial((), FEW.record)
    decoder = onnx.load(trial.path(trial.entry(None).decoder), load_external_data=False)
    onnx.shape_inference.infer_shapes(decoder, check_type=True, strict_mode=True)
    assert 0 < off(wide, open_openvino(str(trial.folder), None, 1), FEW) < NEAR


@WITH_OPENVINO
@pytest.mark.slow(beside="calibration/quantise/test_narrow_bundle.py::test_a_bundle_in_bf16_is_measured_in_fp32")
@pytest.mark.parametrize("narrow_bundle", ["bf16"], indirect=True)
def test_caches_of_a_bundle_in_bf16_are_measured_in_fp32(narrow_bundle: Bundle, tmp_path: Path) -> None:
    wide = open_bundle(str(narrow_bundle.folder), "thirds", 1)
    caches = calibrate_caches(narrow_bundle, FEW, "int8", plan="thirds", output=tmp_path / "coded", threads=1)
    scales = [state.name for state in caches.bundle.manifest.states_of(caches.bundle.entry(caches.plan))]
    assert scales.count(VALUE_SCALE) == 3
    assert off(wide, open_openvino(str(caches.bundle.folder), caches.plan, 1), FEW) < NEAR / 10


def off(reference: Runner, runner: Runner, data: CalibrationSet) -> float:
    """Largest distance of logits, by their length."""
    pairs = [[item.tensors[LOGITS] for item in one.observe(data.cases)] for one in (reference, runner)]
    return float(max(np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(*pairs, strict=True)))


def test_a_target_takes_its_caches_in_codes(narrow_bundle: Bundle) -> None:
    """What codes put into a graph says no shape, and nothing before may have asked for those of all."""
    file, pasts = narrow_bundle.entry(None).decoder, dict[int, np.ndarray]()
    graph = onnx.load(narrow_bundle.path(file), load_external_data=False).graph
    for value in graph.input:
        if value.name.endswith(".key"):
            _, heads, _, size = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
            pasts[int(value.name.split(".")[1])] = np.full((heads, size), 0.02, np.float32)
    model = onnx.load_model_from_string(rewritten(narrow_bundle, file, pasts))
    spec = targets.find("jetson-agx-orin-jp72").with_kv("concat")
    after, _ = run_passes(model, spec, narrow_bundle.manifest.dtype, passes=(unpack_heads,))
    attentions = [node for node in after.graph.node if node.op_type == "Attention"]
    assert attentions and not any(one.name == "q_num_heads" for node in attentions for one in node.attribute)
