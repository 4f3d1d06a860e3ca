"""The model class keeps lmms-eval's contract. The package itself is too large for this suite, so a stand-in asks."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest

from luvc_export.calibration import lmms
from luvc_export.calibration.cases import Case
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.session import Session


class Base:
    """lmms_eval.api.model.lmms as of 0.7.3, as far as a model sees it."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *args: self.cached.append(args))
        self.cached: list[Any] = []


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    modules = {name: types.ModuleType(name) for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model")}
    modules["lmms_eval.api.model"].lmms = Base  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return lmms.LuvcExport


class Talker:
    """A session that repeats what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def prepare(self, pictures: Any, prompt: str) -> Any:
        self.prepared = pictures, prompt
        return self.prepared

    def token_limit(self, request: Any) -> int:
        return 40

    def answer(self, request: Any, **sampling: Any) -> Any:
        assert request is self.prepared, "a question is prepared once"
        pictures, prompt = request
        self.asked.append((len(pictures), prompt, sampling))
        return types.SimpleNamespace(text=f"said {prompt}")


def requests(cases: Sequence[Case], **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    documents = {number: {"pictures": list(case.images)} for number, case in enumerate(cases)}
    asked = [
        types.SimpleNamespace(
            args=(f"<image>{case.prompt}", kwargs, lambda doc: doc["pictures"], number, "glyph", "test")
        )
        for number, case in enumerate(cases)
    ]
    return asked, {"glyph": {"test": documents}}


def test_requests_become_questions(kind: Any, cases: Sequence[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    talker = Talker()
    monkeypatch.setattr(lmms, "Session", lambda *args, **kwargs: talker)
    model = kind(bundle="somewhere", threads="1", batch_size="4", device="cpu")
    asked, model.task_dict = requests(cases, until=["\n\n", "."], max_new_tokens=64)
    assert model.generate_until(asked) == [f"said {case.prompt}" for case in cases]
    assert talker.asked[0] == (1, cases[0].prompt, {"max_new_tokens": 40, "stop": (".",), "greedy": True})
    assert len(model.cached) == len(cases)
    asked, model.task_dict = requests(cases[:1], do_sample=True, temperature=0.7, top_p=None, until="END")
    model.generate_until(asked)
    assert talker.asked[-1][2] == {
        "temperature": 0.7,
        "stop": ("END",),
        "max_new_tokens": 40,
        "greedy": False,
    }
    asked[0].args = (*asked[0].args[:2], lambda doc: ["clip.mp4"], *asked[0].args[3:])
    with pytest.raises(UsageError, match="not videos"):
        model.generate_until(asked)


def test_a_real_bundle_answers(
    kind: Any, demo_bundle: Any, cases: Sequence[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind(bundle=str(demo_bundle.folder), plan="thirds", threads=1)
    asked, model.task_dict = requests(cases[:2], max_new_tokens=2)
    session = Session(demo_bundle, plan="thirds", threads=1)
    texts = [session.generate(case.images[0], case.prompt, max_new_tokens=2).text for case in cases[:2]]
    assert model.generate_until(asked) == texts
    for refused in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(UsageError):
            refused(asked)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(MachineError, match="pip install lmms-eval"):
        _ = lmms.LuvcExport
    with pytest.raises(AttributeError):
        _ = lmms.Other
