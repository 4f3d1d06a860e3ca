from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from luvc_export.bundle import Bundle
from luvc_export.calibration import subjects
from luvc_export.calibration.cases import Case
from luvc_export.calibration.subjects.graph import GraphSubject
from luvc_export.calibration.tasks import find
from luvc_export.demo import IMAGE_SIZE
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.manifest import ImageInput
from luvc_export.pipeline import export_bundle, make_plan
from luvc_export.plan import Plan

torch.set_num_threads(1)

IMAGE = ImageInput(IMAGE_SIZE, "pad", (128, 128, 128))


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    task = find("glyph")
    return open_checkpoint(str(task.checkpoint))


@pytest.fixture(scope="session")
def short(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A part of the bundled model, to trace quickly: two encoder blocks and three layers. It answers nothing right."""
    model = subjects.load_model(checkpoint)
    model.model.visual.blocks = model.model.visual.blocks[:2]
    model.model.language_model.layers = model.model.language_model.layers[:3]
    model.config.vision_config.depth, model.config.vision_config.fullatt_block_indexes = 2, [1]
    model.config.text_config.num_hidden_layers = 3
    model.config.text_config.layer_types = model.config.text_config.layer_types[:3]
    folder = tmp_path_factory.mktemp("short")
    for file in checkpoint.folder.iterdir():
        if not file.name.endswith("safetensors"):
            shutil.copy(file, folder)
    with subjects.quiet():
        model.save_pretrained(folder)
    return open_checkpoint(str(folder))


@pytest.fixture(scope="session")
def bundle(short: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    plans = {name: make_plan(short, name, image_size=IMAGE_SIZE) for name in ("linear", "none")}
    folder = tmp_path_factory.mktemp("parity") / "bundle"
    return export_bundle(short, folder, plans, image_size=IMAGE_SIZE, text_capacity=128, debug=True)


@pytest.fixture(scope="session")
def plan(checkpoint: Checkpoint) -> Plan:
    return make_plan(checkpoint, "thirds", image_size=IMAGE_SIZE)


@pytest.fixture(scope="session")
def cases() -> Sequence[Case]:
    """Two questions about each of two pictures."""
    found = list(find("glyph").cases("demo", 36, 0))
    return [found[0], found[20], found[9], found[30]]


@pytest.fixture
def compressed(checkpoint: Checkpoint) -> Callable[[Plan], GraphSubject]:
    """A fresh compressed torch model with a model of its own, to be spoilt at will."""

    def make(plan: Plan) -> GraphSubject:
        subjects._model.cache_clear()
        return subjects.open_torch(checkpoint, plan, IMAGE)

    return make


@pytest.fixture(scope="session")
def reference(checkpoint: Checkpoint, plan: Plan) -> Any:
    return subjects.open_torch(checkpoint, plan, IMAGE)
