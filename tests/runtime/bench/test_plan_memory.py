"""Memory of plans open together and in turns: how many are open, what is said where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import MachineError
from luvc_export.runtime.bench import plan_memory
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.loaded_case import Held, OpenedPlans
from luvc_export.runtime.bench.plan_memory import measure_open_plans
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.ort import OrtBackend

NAMES = ("none", "thirds")


@pytest.fixture
def case(demo_bundle: Bundle) -> BenchCase:
    return BenchCase(demo_bundle.folder, plan="none", backend="cpu", threads=1)


@pytest.mark.slow(beside="runtime/bench/test_plan_memory.py::test_a_process_measures_one_way")
def test_all_are_open_or_one(case: BenchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is what the process below says. Here turns evict nothing, which is seen."""
    with monkeypatch.context() as patch:
        patch.setattr(PlanResidency, "load", lambda *arguments: None)
        held = OpenedPlans(case, NAMES, 1).held()
    assert (held.open_plans, held.shared) == (2, 0) and held.peak_mib and held.anonymous_mib
    honest = OrtBackend.__init__

    def sharing(self: OrtBackend, *arguments: Any, **named: Any) -> None:
        honest(self, *arguments, **named)
        self.capabilities = replace(self.capabilities, packs_weights=False)

    monkeypatch.setattr(OrtBackend, "__init__", sharing)
    held = OpenedPlans(case, NAMES, 1).held()
    assert (held.open_plans, held.shared) == (2, 2), "from one copy nobody takes turns"


def test_a_process_measures_one_way(case: BenchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan without variants is not opened anew; one whose variants do not fit beside each other says so."""
    assert measure_open_plans(case) is None
    short, asked = MachineError("there is not enough memory"), list[tuple[tuple[str, ...], int]]()
    honest = plan_memory._in_process

    def measured(case: BenchCase, names: tuple[str, ...], most: int) -> Held:
        asked.append((names, most))
        if most == 2:
            raise short
        return honest(case, names, most)

    monkeypatch.setattr(plan_memory, "_in_process", measured)
    monkeypatch.setattr(plan_memory, "answering", lambda manifest, name: {"thirds", "none"})
    opened = measure_open_plans(case)
    assert opened is not None and opened.refusal == str(short) and opened.together is None
    assert asked == [(NAMES, 1), (NAMES, 2)] and opened.evicted.open_plans == 1
