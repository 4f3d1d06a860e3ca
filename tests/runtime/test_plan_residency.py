"""Plans that take turns: who is unloaded for whom, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime import memory
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import Backend, Capabilities


class Loaded(Backend):
    """A back-end that counts."""

    capabilities = Capabilities(packs_weights=True)

    def __init__(self) -> None:
        self.unloaded = 0

    def unload(self) -> None:
        self.unloaded += 1


def test_one_is_loaded_at_a_time_and_more_where_there_is_room() -> None:
    one, other = Loaded(), Loaded()
    turns = PlanResidency()
    for backend in (one, other, other, one):
        turns.load(backend)
    assert (one.unloaded, other.unloaded) == (1, 1)
    assert turns.is_resident(one) and not turns.is_resident(other)
    first, second, third = Loaded(), Loaded(), Loaded()
    roomy = PlanResidency(2)
    for backend in (first, second, first, third):  # of two, the one that answered least lately goes
        roomy.load(backend)
    assert [backend.unloaded for backend in (first, second, third)] == [0, 1, 0]


def test_who_is_busy_goes_last() -> None:
    first, second, third = Loaded(), Loaded(), Loaded()
    turns = PlanResidency(2)
    turns.load(first)
    turns.load(second)
    assert (
        turns.can_load(third, [first])
        and not turns.can_load(third, [first, second])
        and turns.can_load(first, [first, second])
    )
    turns.load(third, [first])
    assert [backend.unloaded for backend in (first, second, third)] == [0, 1, 0]


@pytest.mark.parametrize("most", [0, -1, True, 1.0])
def test_no_room_at_all_is_refused(most: Any) -> None:
    with pytest.raises(UsageError, match="at least one plan of a bundle must be loaded to answer") as refused:
        PlanResidency(most)
    assert "open_plans" in str(refused.value) and "1 or more" in str(refused.value)


def test_room_is_made_by_what_answered_least_lately_and_is_idle() -> None:
    first, second, third, mapped = Loaded(), Loaded(), Loaded(), Loaded()
    mapped.capabilities = Capabilities()
    turns = PlanResidency()
    for backend in (mapped, first, second, first, third):
        turns.answers(backend)
    assert turns.make_room(third, [second]) and turns.make_room(third, [])
    assert [one.unloaded for one in (first, second, third, mapped)] == [1, 1, 0, 0]
    assert not turns.make_room(third, [])


@pytest.mark.slow(beside="runtime/test_plan_residency.py::test_a_number_of_open_plans_counts_those_without_buckets")
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_plan_that_does_not_fit_beside_another_takes_its_place(
    unpadded_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    one, other = (LoadedPlan(unpadded_bundle, backend, threads=1) for _ in range(2))
    other.residency = one.residency
    one.load()
    monkeypatch.setattr(memory, "available_bytes", lambda: 0 if "_decoder" in one.backend.__dict__ else 2**40)
    with pytest.raises(MachineError, match="there is not enough memory"):
        other.load(busy=[one])
    assert "_decoder" in one.backend.__dict__
    other.load(images=False)
    assert "_decoder" not in one.backend.__dict__ and "_decoder" in other.backend.__dict__
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    with pytest.raises(MachineError, match="there is not enough memory"):
        one.load()


def test_a_number_of_open_plans_counts_those_without_buckets(unpadded_bundle: Bundle) -> None:
    for most, kept in ((None, True), (2, True), (1, False)):
        one, other = (LoadedPlan(unpadded_bundle, "cpu", threads=1) for _ in range(2))
        one.residency = other.residency = PlanResidency(most)
        for plan in (one, other):
            plan.load(images=False)
        assert ("_decoder" in one.backend.__dict__) == kept and "_decoder" in other.backend.__dict__
        assert not other.waits_for([one]) and one.waits_for([other]) == (not kept)


def test_buckets_take_turns_unless_they_load_slowly(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "buckets_of", lambda self, plan: ("half",))
    for most, slowly, waits in ((None, False, True), (None, True, False), (1, True, True)):
        one, other = (LoadedPlan(short_bundle, "cpu", threads=1) for _ in range(2))
        for plan in (one, other):
            plan.backend.capabilities = replace(plan.backend.capabilities, keeps_buckets=slowly)
        one.residency = other.residency = PlanResidency(most)
        one.load(images=False)
        assert other.waits_for([one]) == waits, (most, slowly)
