"""The bundled model with its prunes and merges in the TensorRT plugins, on emulated kernels: ONNX Runtime's answers.

What plays TensorRT is ours (plugins/emulate/tensorrt), so this shows nothing of TensorRT itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import ort_engine
import pytest
import stand_in
from plugin_bundle import PLAN, plugin_bundle
from plugin_host import Host

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import runners
from luvc_export.calibration.cases import Case
from luvc_export.calibration.tasks import find
from luvc_export.core.operators import DOMAIN, OPERATORS
from luvc_export.core.target import TargetSpec
from luvc_export.engines.profiles import Capacity
from luvc_export.export.surgeon import run_passes
from luvc_export.runtime.cuda.device import Gpu

QUESTIONS = 56
CAPACITY = Capacity(text=96, groups=2, logits=96)
SPEC = TargetSpec("emulated", "onnx", next_token=True, plugins=frozenset(OPERATORS))


def narrower(case: Any) -> Case:
    """The same question of pictures that lost a third of their width, so that padding stands beside them."""
    images = tuple(image[:, : 2 * image.shape[1] // 3] for image in case.images)
    narrow: Case = dataclasses.replace(case, images=images)
    return narrow


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


@pytest.fixture
def bundle(host: Host, pytestconfig: pytest.Config) -> Bundle:
    return plugin_bundle(Path(pytestconfig.cache.mkdir("plugins")))


def test_the_whole_model_answers_as_its_bundle_does(bundle: Bundle, host: Host) -> None:
    described = ort_engine.describe(bundle, PLAN, "concat", CAPACITY)
    entry = bundle.entry(PLAN)
    models = {}
    for name, file in (("vision", entry.vision), ("decoder", entry.decoder)):
        model = onnx.load(bundle.path(file), load_external_data=False)
        models[name] = run_passes(model, SPEC, text_capacity=CAPACITY.text, groups=CAPACITY.groups)[0]
    called = [node for model in models.values() for node in model.graph.node if node.domain == DOMAIN]
    assert {node.op_type for node in called} == set(OPERATORS)
    attributes = {item.name for node in called for item in node.attribute}
    assert {"padded", "padding_payload"} <= attributes, "a default export knows padding"

    engines = dataclasses.replace(described, models=models, session=host.session)
    backend, _ = engines.backend(Gpu(library=stand_in.library()))
    candidate = runners.open_engine(engines.bundle, PLAN, backend=backend)
    reference = runners.open_bundle(str(bundle.folder), PLAN, threads=1)
    task = find("glyph")
    cases = list(task.cases(task.report[0], QUESTIONS, 5))
    assert len(cases) == QUESTIONS
    cases[::3] = [narrower(case) for case in cases[::3]]
    differing = []
    for case in cases:
        wanted = reference.answer([case], task.longest)
        if candidate.answer([case], task.longest) != wanted:
            differing.append((case.prompt, wanted))
    assert not differing
    assert host.runs["SpectrumPrune"] >= QUESTIONS and host.runs["OrthogonalMerge"] > 0, host.runs


def test_a_layer_refuses_what_a_graph_may_not_ask(host: Host) -> None:
    node = onnx.helper.make_node("SpectrumPrune", [], ["a", "b"], keep=-1, score="low", epsilon=1e-6)
    with pytest.raises(AssertionError, match="a dimension is out of range"):
        host.layer(node)
