"""What bench says of drafts and of calls by engine: real runs of the bundled model, their JSON and their table."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from luvc_export.bundle.folder import Bundle
from luvc_export.cli.tables.bench import bench_table, needed
from luvc_export.runtime.bench.case import METRICS, BenchCase
from luvc_export.runtime.bench.loaded_case import COMPARED, LoadedCase
from luvc_export.runtime.bench.machine import Machine
from luvc_export.runtime.bench.measure import Timed
from luvc_export.runtime.call_times import CallTimes, drafting, merged, since
from luvc_export.runtime.speculation.draft_length import needed_acceptance

TOKENS, RUNS = 24, 2
MACHINE = Machine(flops=1e9, bandwidth=1e9, threads=1)
CPU = "cpu fp32"


def run(bundle: Bundle, speculate: str | None) -> Timed:
    case = BenchCase(
        bundle.folder, 0, 24, TOKENS, "labelled", plan="even", backend="cpu", threads=1, speculate=speculate
    )
    loaded = LoadedCase(case)
    samples = tuple(loaded.run(case) for _ in range(RUNS))
    return Timed(loaded.facts(case), samples)


@pytest.fixture(scope="module")
def plain(demo_bundle: Bundle) -> Timed:
    return run(demo_bundle, None)


@pytest.fixture(scope="module")
def lookup(demo_bundle: Bundle) -> Timed:
    return run(demo_bundle, "lookup:5")


@pytest.fixture(scope="module")
def pair(demo_bundle: Bundle) -> Timed:
    return run(demo_bundle, f"draft:{demo_bundle.folder}#even:3")


def counted(timed: Timed, number: int) -> dict[str, int]:
    """Calls of a run by part, all on one engine."""
    calls = timed.samples[number].calls
    assert {call.engine for call in calls} == {CPU} and all(call.seconds > 0 for call in calls)
    return {call.part: call.calls for call in calls}


def test_without_drafts_a_step_gives_a_token(plain: Timed) -> None:
    for number, sample in enumerate(plain.samples):
        assert counted(plain, number) == {"prompt": 1, "step": TOKENS - 1}, "of this run alone"
        assert (sample.tokens_per_step, sample.acceptance_length, sample.drafted) == (1, 1, 0)
        assert math.isnan(sample.acceptance)


@pytest.mark.parametrize("kind", ["lookup", "pair"])
def test_steps_and_drafts_of_a_run(kind: str, request: pytest.FixtureRequest) -> None:
    """The plan drafts for itself, so all its drafts are right; answers of random tokens end up in loops."""
    timed: Timed = request.getfixturevalue(kind)
    for number, sample in enumerate(timed.samples):
        counts = counted(timed, number)
        steps = counts["step"] - COMPARED + counts["verify"]
        assert sample.tokens_per_step == pytest.approx((TOKENS - 1) / steps) and sample.tokens_per_step > 1
        assert sample.acceptance_length >= sample.tokens_per_step and 0 < sample.acceptance <= 1
        if kind == "pair":
            assert sample.acceptance == 1 and counts["draft prompt"] == 1
            assert counts["draft step"] == round(sample.drafted * counts["verify"])


def test_what_drafts_take_inside_graphs_is_not_outside(demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.runtime.bench.loaded_case.COMPARED", 0)
    case = BenchCase(
        demo_bundle.folder,
        0,
        24,
        8,
        plan="even",
        backend="cpu",
        threads=1,
        speculate=f"draft:{demo_bundle.folder}#even",
    )
    loaded = LoadedCase(case)
    smaller: Any = loaded.session.default.draft_model
    sample = loaded.run(case)
    both = loaded.backend.graph_seconds + smaller.backend.graph_seconds
    assert sample.total_ms - sample.outside_ms == pytest.approx(1000 * both) and smaller.backend.graph_seconds > 0


def test_calls_stand_in_the_json_by_engine(pair: Timed) -> None:
    data = json.loads(json.dumps(pair.to_json()))
    kinds = ["prompt", "verify", "step", "draft prompt", "draft step"]
    assert {entry["part"] for entry in data["engines"]} == {*kinds} and set(data["stats"]) == {*METRICS}
    for entry in data["engines"]:
        assert entry.keys() == {"part", "engine", "ms"} and entry["engine"] == CPU
        assert 0 < entry["ms"]["low"] <= entry["ms"]["median"] <= entry["ms"]["high"]
        runs = [call["ms"] for sample in data["runs"] for call in sample["calls"] if call["part"] == entry["part"]]
        assert len(runs) == RUNS and min(runs) <= entry["ms"]["median"] <= max(runs)
    assert data["stats"]["acceptance"]["median"] == 1.0 and data["stats"]["tokens_per_step"]["median"] > 1


def shown(*timed: Timed) -> dict[str, list[str]]:
    """Cells of the table's rows, by their first."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(bench_table(timed, [{} for _ in timed], MACHINE))
    rows = [line.strip("│ \n").split("│") for line in console.export_text().splitlines() if "│" in line]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_table_has_calls_and_drafts(plain: Timed, pair: Timed) -> None:
    rows = shown(plain, pair)
    assert rows[f"draft step on {CPU}, ms a call"][0] == "none" and rows[f"verify on {CPU}, ms a call"][0] == "none"
    step = pair.call_ms("step", CPU)
    assert rows[f"step on {CPU}, ms a call"][1].startswith(f"{step.median:.4g} ")
    assert rows["tokens per step"][0] == rows["acceptance length"][0] == "1.00" and rows["acceptance"][0] == "none"
    assert float(rows["acceptance length"][1]) > 1 and rows["acceptance"][1] == "1.00"
    bar = rows["acceptance from which these drafts pay"]
    assert bar[0] == "none" and (bar[1] == "never" or 0 <= float(bar[1]) <= 1)
    assert not {name for name in shown(plain) if "accept" in name or "draft" in name or "verify" in name}


def calls(**ms: float) -> tuple[CallTimes, ...]:
    """Ten calls of each kind."""
    return tuple(CallTimes(part.replace("_", " "), CPU, 10, value / 100) for part, value in ms.items())  # type: ignore[arg-type]


def test_the_bar_is_that_of_the_measured_costs(pair: Timed) -> None:
    """A draft of 4 tokens: each costs a quarter of a step, and a tenth of one to check."""
    sample = replace(pair.samples[0], drafted=4.0, calls=calls(step=10.0, verify=14.0, draft_step=2.5))
    assert needed(replace(pair, samples=(sample,))) == needed_acceptance(4, 0.25, 0.1)
    dear: Any = replace(sample, calls=calls(step=10.0, verify=14.0, draft_step=30.0))
    assert needed(replace(pair, samples=(dear,))) == math.inf
    assert math.isnan(needed(replace(pair, samples=(replace(sample, drafted=0.0),)))), "no draft, no bar"
    assert math.isnan(needed(replace(pair, samples=(replace(sample, calls=calls(step=10.0, verify=14.0)),))))


def test_calls_add_up_and_what_came_later_is_told_apart() -> None:
    before = [*calls(prompt=5.0, step=10.0), CallTimes("step", "openvino bf16", 1, 0.5)]
    after = merged([*before, *calls(step=2.0, verify=7.0)])
    assert [(one.part, one.engine, one.calls) for one in after] == [
        ("prompt", CPU, 10), ("step", CPU, 20), ("step", "openvino bf16", 1), ("verify", CPU, 10)
    ]  # fmt: skip
    later = {(one.part, one.calls): one.ms for one in since(after, before)}
    assert later == {("step", 10): pytest.approx(2.0), ("verify", 10): pytest.approx(7.0)}
    assert [(one.part, one.calls) for one in drafting(after)] == [
        ("draft prompt", 10), ("draft step", 30), ("draft step", 1)
    ]  # fmt: skip
    assert math.isnan(CallTimes("step", CPU, 0, 0.0).ms)
