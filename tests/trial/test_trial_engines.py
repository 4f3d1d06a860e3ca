"""What a trial measures of engines: turns, graphs on and off, memory of each plan alone. Back-ends are made up here."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import pytest

from luvc_export.errors import MachineError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.trial import engine_measure
from luvc_export.trial.claims import judge

PLANS = ("safe", "none")
MIB = 2**20


@dataclasses.dataclass
class Card:
    """A GPU whose free memory falls when engines are opened."""

    free: int = 1000 * MIB

    def memory(self) -> tuple[int, int]:
        return self.free, 1000 * MIB


class Opened:
    """A session on engines of a plan: compressed ones are faster, replayed steps too."""

    order: list[tuple[str, bool]]

    def __init__(self, bundle: Any, backend: Any, plan: str) -> None:
        self.plan, self.graphs, self.card = plan, backend.graphs, backend.card
        self.card.free -= (40 if plan == "safe" else 70) * MIB
        self.default = types.SimpleNamespace(ends=frozenset({1}))

    def generate(self, picture: Any, prompt: str, max_new_tokens: int, greedy: bool) -> Any:
        assert greedy and picture.dtype == np.uint8 and not self.default.ends
        self.order.append((self.plan, self.graphs))
        times = {"vision_ms": 1.0, "prefill_ms": 2.0, "ttft_ms": 4.0 if self.plan == "safe" else 9.0, "kv_mib": 3.0}
        step = 1.0 if self.graphs else 2.0
        tokens = max_new_tokens - 1
        return types.SimpleNamespace(
            timings=types.SimpleNamespace(**times, decode_ms=step * tokens, decode_tokens=tokens)
        )


def bundle() -> Any:
    entry = types.SimpleNamespace(footprint=types.SimpleNamespace(running=50 * MIB))
    image = types.SimpleNamespace(size=(8, 8))
    return types.SimpleNamespace(engine=lambda plan, target: entry, manifest=types.SimpleNamespace(image=image))


def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    card = Card()
    Opened.order = []
    monkeypatch.setattr(engine_measure, "Session", Opened)

    def opened(engine: Any, plan: str, graphs: bool) -> Any:
        return types.SimpleNamespace(graphs=graphs, card=card)

    return engine_measure.measure(bundle(), "rtx-ada", PLANS, card, opened, repeats=3)  # type: ignore[arg-type]


def test_plans_take_turns_and_the_first_two_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = measured(monkeypatch)
    turn = [("safe", True), ("safe", False), ("none", True), ("none", False)]
    assert Opened.order == turn * 5
    assert [(case["plan"], case["cuda_graphs"]) for case in times["cases"]] == turn
    assert all(len(case["runs"]) == 3 for case in times["cases"])


def test_memory_is_each_plan_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {item["plan"]: (item["taken_mib"], item["predicted_mib"]) for item in measured(monkeypatch)["memory"]}
    assert taken == {"safe": (40, 50), "none": (70, 50)}


def test_the_claims_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"engines": {"state": "done", "result": measured(monkeypatch)}}
    lines = {line.claim: (line.verdict, line.figure) for line in judge(steps)}
    assert lines["engines-sooner"] == ("holds", "first token 2.25x sooner")
    assert lines["graphs"] == ("holds", "1.00 ms a token replayed, 2.00 ms launched")
    assert lines["memory"] == ("fails", "safe: 40 of 50 MiB predicted, none: 70 of 50 MiB predicted")


def test_without_a_gpu_the_program_says_so(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Gpu()
    except MachineError:
        monkey = pytest.MonkeyPatch()
        monkey.setattr(engine_measure, "load", lambda folder: None)
        assert engine_measure.main([str(tmp_path), "rtx-ada", "safe", "none"]) == 3
        monkey.undo()
        assert '"what": "there is no NVIDIA driver' in capsys.readouterr().err
    else:
        pytest.skip("this machine has a GPU")
