"""The contract on every back-end: what the cells of ``cells.py`` gave when they were frozen, they give."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cells
import pytest
from slow_cases import slow_but

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parent / "goldens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def jobs(pytestconfig: pytest.Config) -> dict[str, Callable[[], Any]]:
    """From bundles that other tests export too."""
    return cells.jobs(Path(pytestconfig.cache.mkdir("demo")).parent)


def some(names: Iterable[str]) -> list[str]:
    """A cell of each capability, back-ends and plans taking turns; the command runs all."""
    of = defaultdict(list)
    for name in names:
        _, plan_or_feature, *question = name.split(" | ")
        of[question[0] if plan_or_feature in ("none", "thirds") else plan_or_feature].append(name)
    return [of_one[7 * at % len(of_one)] for at, of_one in enumerate(of.values())]


@pytest.mark.parametrize("bundles", slow_but(["the demo's"], ["the demo's", "of features"]))
def test_cells_give_their_tokens(bundles: str, jobs: dict[str, Callable[[], Any]]) -> None:
    """Kernels differ between CPUs: tokens are equal, log probabilities within ``cells.TOLERANCE``."""
    assert jobs.keys() == GOLDENS.keys()
    chosen = some(jobs)
    assert {name.split(" | ")[0] for name in chosen} == {name.split(" | ")[0] for name in jobs}
    exported = [name for name in chosen if name.split(" | ")[1] in cells.OF_A_FEATURE]
    assert 0 < len(exported) < len(chosen)
    asked = exported if bundles == "of features" else [name for name in chosen if name not in exported]
    assert [name for name in asked if cells.verdict(GOLDENS[name], cells.given_by(jobs[name]), name) == "differs"] == []


def test_a_wrong_cell_is_noticed() -> None:
    """Sabotage: a token swapped, a log probability moved, a row lost, a refusal in the place of an answer."""
    for name, golden in GOLDENS.items():
        if isinstance(golden, str):
            assert cells.verdict(golden, golden + "!") == "differs"
            continue
        (ids, numbers), *others = golden
        other = [[*ids[:-1], "another"], numbers]
        moved = [ids, [*numbers[:-1], numbers[-1] + 2 * cells.TOLERANCE]] if numbers else other
        for wrong in ([other, *others], [moved, *others], others, "UsageError: no"):
            assert cells.verdict(golden, wrong) == "differs", name
        assert cells.verdict(golden, golden) == "equal"


@pytest.mark.parametrize("backend", ["cpu", "openvino+openvino"])
def test_a_lost_row_of_a_cache_moves_its_cell(
    backend: str, jobs: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage inside the running model: rows of the first layer's keys stand in another order."""
    from luvc_export.runtime.host.cache import HostCache

    honest = HostCache.feeds

    def shifted(self: HostCache, inputs: Any, kind: Any) -> dict[str, Any]:
        values = honest(self, inputs, kind)
        name = "past_key_values.0.key"
        array = kind.read(values[name])
        if array.shape[2]:
            values[name] = kind.make(array[:, :, ::-1].copy(), name)
        return values

    monkeypatch.setattr(HostCache, "feeds", shifted)
    name = f"{backend} | none | several turns with pictures"
    assert cells.verdict(GOLDENS[name], cells.given_by(jobs[name])) == "differs"
