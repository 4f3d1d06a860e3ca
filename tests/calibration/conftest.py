from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from luvc_export.bundle.manifest import ImageInput
from luvc_export.calibration import runners
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.graph import GraphRunner
from luvc_export.calibration.tasks import find
from luvc_export.core.plan import Plan
from luvc_export.demo import IMAGE_SIZE
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.pipeline import make_plan

torch.set_num_threads(1)

IMAGE = ImageInput(IMAGE_SIZE, "pad", (128, 128, 128))


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    task = find("glyph")
    return open_checkpoint(str(task.checkpoint))


@pytest.fixture(scope="session")
def plan(checkpoint: Checkpoint) -> Plan:
    return make_plan(checkpoint, "thirds", image_size=IMAGE_SIZE)


@pytest.fixture(scope="session")
def cases() -> Sequence[Case]:
    """Two questions about each of two pictures."""
    task = find("glyph")
    chosen: dict[int, list[Case]] = {}
    for case in task.cases(task.report[0], 60, 5):
        if len(case.images) == 1:
            chosen.setdefault(case.picture, []).append(case)
    first, second = list(chosen.values())[:2]
    return [first[0], second[1], first[1], second[2]]


@pytest.fixture
def compressed(checkpoint: Checkpoint) -> Iterator[Callable[[Plan], GraphRunner]]:
    """A fresh compressed torch model with a model of its own, to be spoilt at will; nobody gets it after the test."""

    def make(plan: Plan) -> GraphRunner:
        runners._model.cache_clear()
        return runners.open_torch(checkpoint, plan, IMAGE)

    yield make
    runners._model.cache_clear()


@pytest.fixture(scope="session")
def reference(checkpoint: Checkpoint, plan: Plan) -> Any:
    return runners.open_torch(checkpoint, plan, IMAGE)
