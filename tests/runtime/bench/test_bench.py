"""Timing in turns, profiles, roofline: on the tiny bundle and on made-up samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import StoredCodes
from luvc_export.core.budgets import prefill_flops
from luvc_export.errors import BundleError, LuvcError, MachineError, UsageError
from luvc_export.runtime.bench import profile as profiling
from luvc_export.runtime.bench.case import METRICS, BenchCase, CaseFacts, Sample
from luvc_export.runtime.bench.loaded_case import LoadedCase, flops, stored_bits
from luvc_export.runtime.bench.machine import Machine, measure_machine, roofline
from luvc_export.runtime.bench.measure import Stat, Timed, exponent, measure, ratio
from luvc_export.runtime.bench.worker import Worker
from luvc_export.runtime.speculation.draft_costs import weight_bytes

FACTS = CaseFacts("a", "half", "cpu", "fp32", 1.0, None, 2.0, None, None, 0.5, (2, 0), 2_000_000, 4_000_000)


def timed(*prefill: float) -> Timed:
    return Timed(FACTS, tuple(Sample(0, 0, ms, 1, 10, 100, 1, 20) for ms in prefill))


@pytest.fixture
def case(bundle: Bundle) -> BenchCase:
    return BenchCase(bundle.folder, plan="half", backend="cpu", images=1, text=6, new_tokens=3, threads=1, label="tiny")


def test_a_run_takes_the_lengths_it_is_told(case: BenchCase) -> None:
    runner = LoadedCase(case)
    sample = runner.run(case)
    two = replace(case, images=2, new_tokens=1)
    alone = runner.run(two)
    assert sample.ttft_ms >= sample.preprocess_ms + sample.vision_ms + sample.prefill_ms
    assert 0 < sample.outside_ms < sample.total_ms and math.isnan(alone.tokens_per_s)
    facts = runner.facts(case)
    assert facts.visual_tokens == (2, 0) and runner.facts(two).visual_tokens == (4, 0)
    rows = (2 + 6 + 2) + (6 + 2)  # the last token is not fed back
    assert facts.kv_mib * 2**20 == 2 * 4 * 4 * rows
    with pytest.raises(UsageError, match="expected: at least 1 and 1, together at most 48"):
        runner.run(replace(case, text=47))


def test_costs_are_those_of_the_budgets(bundle: Bundle) -> None:
    manifest, plan = bundle.manifest, bundle.entry().plan
    shape = manifest.decoder
    layers = sum(prefill_flops(shape, (2, 0), 5))
    assert flops(manifest, plan, 1, 5) == layers + 2 * shape.hidden * shape.vocab
    assert weight_bytes(manifest, 32) == 4 * (2 * (4 * 16 + 3 * 4 * 8) + 4 * 260)


def test_cases_run_in_turns_each_plan_in_a_process(case: BenchCase) -> None:
    progress: list[tuple[str, float]] = []
    first, second = measure([case, replace(case, text=12)], 2, 1, lambda stage, done: progress.append((stage, done)))
    assert len(first.samples) == len(second.samples) == 2
    assert progress[-1] == ("timing", 1.0) and [stage for stage, _ in progress].count("timing") == 6
    data = json.loads(json.dumps(first.to_json()))
    assert set(data["stats"]) == set(METRICS) and len(data["runs"]) == 2 and data["facts"]["peak_mib"] > 10


def test_what_fails_in_the_process_is_raised_here(case: BenchCase, tmp_path: Path) -> None:
    with pytest.raises(LuvcError, match="this is not a bundle") as error:
        Worker(replace(case, bundle=tmp_path))
    assert error.value.exit_code == 2
    with Worker(case) as worker:
        worker._child.process.kill()
        with pytest.raises(MachineError, match="has died"):
            worker.run(case)


def test_statistics_pair_runs() -> None:
    assert Stat.of([3.0, 1.0, 2.0]) == Stat(2.0, 1.5, 2.5)
    paired = ratio(timed(10, 20, 40), timed(5, 10, 10), "prefill_ms")
    assert paired == Stat(0.5, 0.375, 0.5)
    sizes = np.array([100, 200, 400])
    assert exponent(sizes, 3 * sizes**2) == pytest.approx(2.0)


def test_roofline_is_work_by_time_by_limit() -> None:
    limits = roofline(timed(2.0), Machine(flops=2e9, bandwidth=8e8, threads=1))
    assert limits.prefill == pytest.approx(0.5) and limits.decode == pytest.approx(0.5)
    beside = replace(timed(2.0), bandwidths=(4e8,))
    assert roofline(beside, Machine(flops=2e9, bandwidth=8e8, threads=1)).decode == pytest.approx(1.0)
    machine = measure_machine(1)
    assert machine.threads == 1 and machine.flops > 1e8 and machine.bandwidth > 1e8


def event(name: str, dur: int, at: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "ts": at, "args": {"op_name": "MatMul"}}


def test_a_profile_tells_merges_and_prunes_apart(tmp_path: Path) -> None:
    names = (
        "node_linear",
        "_inlfunc_MergeAxis_luvc.MergeAxis.MatMul.3",
        "_inlfunc_SpectrumPrune_luvc.SpectrumPrune.T.1",
    )
    events = [event(name, 1000 * (i + 1) * (run + 1), 10 * run + i) for run in range(3) for i, name in enumerate(names)]
    (tmp_path / "p.json").write_text(json.dumps([{"cat": "Session"}, *reversed(events)]))
    profile = profiling.read(tmp_path / "p.json", 2)  # runs of 2x and 3x count, the first does not
    assert profile == profiling.KernelTimes(15.0, 5.0, 7.5, {"MatMul": 15.0})
    (tmp_path / "p.json").write_text(json.dumps(events[1:]))
    with pytest.raises(BundleError, match="no whole runs"):
        profiling.read(tmp_path / "p.json", 2)


def test_a_real_profile_has_every_kernel(case: BenchCase) -> None:
    profile = profiling.profile(case, runs=1)
    assert set(profile) == {"vision", "decoder"} and profile["decoder"].operators["MatMul"] > 0
    assert profile["decoder"].prune_ms == profile["vision"].merge_ms == 0.0  # the tiny bundle has no fused nodes


def test_bits_of_codes_are_counted_as_they_are_read(bundle: Bundle) -> None:
    manifest = bundle.manifest
    layers = [f"model.language_model.layers.{n}" for n in range(manifest.decoder.layers)]
    products = {f"{layer}.{n}.weight": "int4" for layer in layers for n in range(7)}

    def bits(products: dict[str, str]) -> tuple[int, int]:
        stored = StoredCodes("awq", "weights.stored", products, 1, 1)
        return stored_bits(replace(manifest, weights=replace(manifest.weights, stored=stored)), 32)

    assert bits(products) == (4, 32)
    assert bits(dict.fromkeys(products, "fp8")) == (32, 32)
    assert bits(dict(list(products.items())[: len(products) // 2])) == (18, 32)
    assert bits(products | {"lm_head.weight": "int8", "model.visual.layers.0.weight": "int8"}) == (4, 8)
