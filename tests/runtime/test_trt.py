"""The same Session on engines: whole answers equal to ONNX Runtime's, on the stand-in GPU (see ort_engine)."""

from __future__ import annotations

from typing import Any

import ort_engine
import pytest
import stand_in
from ort_engine import Engines

from luvc_export.bundle import Bundle
from luvc_export.calibration.tasks import find
from luvc_export.engines.profiles import Capacity
from luvc_export.runtime.cuda import Gpu
from luvc_export.runtime.session import Session

CAPACITY = Capacity(text=96, images=2, logits=96)
FORMS = ("concat", "inplace")


@pytest.fixture(scope="module")
def engines(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engines]:
    return {kv: ort_engine.describe(demo_bundle, "thirds", kv, CAPACITY) for kv in FORMS}


@pytest.fixture(scope="module")
def expected(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, plan="thirds", threads=1)


@pytest.fixture(scope="module")
def question() -> tuple[Any, str]:
    task = find("glyph")
    case = next(case for case in task.cases(task.report[0], 20, 5) if len(case.images) == 1)
    return case.images[0], case.prompt


@pytest.fixture
def gpu() -> Gpu:
    return Gpu(library=stand_in.library())


def session(engines: Engines, gpu: Gpu, **options: Any) -> tuple[Session, dict[str, Any]]:
    backend, opened = engines.backend(gpu, **options)
    return Session(engines.bundle, backend, "thirds"), opened


@pytest.mark.parametrize("kv", FORMS)
def test_an_answer_is_ort_s(
    engines: dict[str, Engines], expected: Session, gpu: Gpu, question: tuple[Any, str], kv: str
) -> None:
    image, prompt = question
    ours, opened = session(engines[kv], gpu)
    theirs = expected.generate(image, prompt, max_new_tokens=6)
    for _ in range(2):
        got = ours.generate(image, prompt, max_new_tokens=6)
        assert (got.token_ids, got.visual_tokens) == (theirs.token_ids, theirs.visual_tokens)
    assert opened["decoder"].contexts == 2 and opened["vision"].contexts == 1
    assert set(ours.backend.placement()) == {"vision", "decoder"}
