"""What a trial keeps of a verb's output is there: made of the verbs' own data, so that a renamed field shows here."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from flat_plans import flat_plan

from luvc_export.bundle.manifest import EngineEntry, EngineFile, FileRecord, Footprint, PlanEntry
from luvc_export.calibration.parity.result import Gate
from luvc_export.cli.commands import bench
from luvc_export.core.plan.cost import cost
from luvc_export.core.shapes import DecoderShape
from luvc_export.runtime.bench.case import CaseFacts, Sample
from luvc_export.runtime.bench.machine import Machine
from luvc_export.runtime.bench.measure import Timed
from luvc_export.runtime.bench.profile import KernelTimes
from luvc_export.trial.claims import judge
from luvc_export.trial.steps import PLANS, find

SHAPE = DecoderShape(3, 64, 4, 2, 16, 96, 256, 2048)
PLAN = flat_plan(grid=(4, 4), keep=(16, 8, 0))


def as_printed(data: Any) -> Any:
    return json.loads(json.dumps(data))


def test_of_plan() -> None:
    record = as_printed({"plan": PLAN.to_json(), "cost": cost(PLAN, SHAPE).to_json()})
    kept = find("plan").pick(record)
    assert kept["keep"] == [16, 8, 0] and kept["flops_ratio"] > 1 and kept["kv_ratio"] > 1


def test_of_bench_and_what_the_claims_make_of_it() -> None:
    facts = CaseFacts("x#safe", "safe", "cpu", "fp32", 1.0, None, 2.0, 3.0, None, 0.5, (16, 8, 0), 10, 20)
    sample = Sample(1.0, 2.0, 3.0, 6.0, 4.0, 50.0, 0.5, 10.0)
    timed = [Timed(dataclasses.replace(facts, plan=plan), (sample,) * 3) for plan in PLANS]
    profiles = [{"vision": KernelTimes(2.0, 0.5, 0.0, {"MatMul": 1.5})} for _ in PLANS]
    record = as_printed(bench._json(timed, profiles, Machine(1e9, 1e9, 2), [None] * len(PLANS)))
    kept = find("bench").pick(record)
    assert [case["plan"] for case in kept["cases"]] == list(PLANS) and "x#safe" not in json.dumps(kept)
    steps = {name: {"state": "done", "result": kept} for name in ("bench",)}
    steps["export"] = {"state": "done", "result": {"plans": {"safe": [16, 8, 0]}, "weights_mode": "reference"}}
    lines = {line.claim: line.verdict for line in judge(steps)}
    assert (lines["fixed"], lines["none-left"], lines["cheap"]) == ("holds", "holds", "holds")
    assert (lines["sooner"], lines["smaller"]) == ("fails", "fails"), "equal is not better"


def test_of_build() -> None:
    file = EngineFile("decoder.engine", FileRecord("0" * 64, 9), (), (), (), 5, None, "a", "b")
    numbers = dict.fromkeys(("batch", "images", "text_capacity"), 1)
    flags = dict.fromkeys(("version_compatible", "refit", "stripped"), False)
    words = {"plan": "safe", "target": "rtx-ada", "precision": "fp16", "kv": "inplace", "backend": "tensorrt_rtx"}
    parts: Any = {**numbers, **flags, **words, "version": "1.7", "compute_capabilities": ("8.9",)}
    entry = EngineEntry(
        **parts, hardware_compatibility="none", vision=file, decoder=file, footprint=Footprint(1, 2, 3, 4, 5)
    )
    record = as_printed({"bundle": "/home/somebody/bundle", "engine": dataclasses.asdict(entry)})
    kept = find("build-safe").pick(record)
    assert kept["decoder"] == {"bytes": 9, "weight_bytes": 5} and "somebody" not in json.dumps(kept)
    (line,) = (line for line in judge({"build-safe": {"state": "done", "result": kept}}) if line.claim == "built")
    assert line.verdict == "holds" and "rtx-ada with tensorrt_rtx 1.7" in line.figure


def test_of_parity_and_export() -> None:
    """Names of fields alone: the verbs themselves are long."""
    assert {"level", "name", "got", "limit"} <= {field.name for field in dataclasses.fields(Gate)}
    assert isinstance(Gate.passed, property)
    assert "plan" in {field.name for field in dataclasses.fields(PlanEntry)}
    gate = {"level": "tensors", "name": "x", "got": 1.0, "limit": 2.0, "passed": True, "where": "/home/x/y", "why": ""}
    sides = {side: {"name": "/home/x", "dtype": "fp32", "plan": {}} for side in ("reference", "candidate")}
    kept = find("parity-none").pick({"passed": True, "gates": [gate], **sides})
    assert "/home" not in json.dumps(kept) and kept["gates"][0]["got"] == 1.0
