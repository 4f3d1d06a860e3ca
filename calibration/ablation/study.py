"""The whole comparison on one task: settings searched on one split, everything reported on another.

Time to first token of each plan is measured: processor time of one thread, plans taking turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation import past, variants
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, pack, plan_key, unpack
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.parity.plots import mean_tokens
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import cost
from luvc_export.core.planning import EncoderRequest, LlmRequest, PlanRequest
from luvc_export.errors import Progress
from luvc_export.export.compression import scores
from luvc_export.runtime.model import TokensPrompt


@dataclass(frozen=True)
class Times:
    """Milliseconds, medians: the encoder, the LLM's prefill, both together (time to first token)."""

    vision: float
    prefill: float
    ttft: float


def measure(engine: PlanEvaluator, plans: Sequence[Plan], rounds: int = 9, text: int = 32) -> list[Times]:
    """Times of ``plans`` on one picture and one prompt.

    Processor time of one thread does not count what other programs take; taking turns spreads what remains.

    The first of ``rounds`` turns warms up and is dropped; a real prompt is repeated up to ``text`` tokens.
    """
    every = engine.asked(plans[0])
    index = next(i for i, asked in enumerate(every) if len(asked.pictures) == 1)
    runners = [TorchCalls(engine.checkpoint, engine.model, plan) for plan in plans]
    ready = [_ready(engine, calls, engine.asked(calls.plan)[index], text) for calls in runners]
    taken: list[list[tuple[float, float]]] = [[] for _ in plans]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(rounds + 1):
            for calls, (image, feeds, past), times in zip(runners, ready, taken, strict=True):
                with torch.no_grad():
                    begin = time.thread_time()
                    calls.encoder(*image)
                    middle = time.thread_time()
                    calls.decode_tensors(feeds, past)
                    end = time.thread_time()
                if turn:
                    times.append((1000 * (middle - begin), 1000 * (end - middle)))
    finally:
        torch.set_num_threads(threads)
    medians = []
    for times in taken:
        vision, prefill = (float(np.median(part)) for part in zip(*times, strict=True))
        medians.append(Times(vision, prefill, float(np.median([a + b for a, b in times]))))
    return medians


def _ready(engine: PlanEvaluator, calls: TorchCalls, asked: Any, text: int) -> tuple[Any, Any, Any]:
    seen = engine.encode_images(calls).some(asked.pictures)
    tail = [token for token in asked.prompt if token != engine.image_token]
    prompt = (asked.prompt + tail * text)[: text + 1]
    feeds = engine.feeds(calls.plan, [TokensPrompt(prompt)], replace(seen, padding=None))[1]
    unit = engine.checkpoint.family.unit_pixels(engine.checkpoint.config)
    size = (calls.plan.grid[0] * unit, calls.plan.grid[1] * unit)
    image = torch.zeros(1, 1, *size, 3, dtype=torch.uint8)
    none = torch.zeros(1, *calls.plan.grid, dtype=torch.bool)
    return (image, none) if calls.plan.encoder.reads_padding else (image,), feeds, calls.empty(1)


#: Methods whose accuracy is measured at several budgets.
CURVE = ("SPU, settings searched", "random", "stride", "v2drop", "merge")


@dataclass(frozen=True)
class Row:
    """One measured variant; intervals are 95 %, clustered by picture; times in ms."""

    name: str
    remark: str
    keep: tuple[int, ...]
    tokens: float
    questions: int
    accuracy: intervals.Interval
    retention: intervals.Interval
    kinds: dict[str, float]
    flops_ratio: float
    kv_bytes: int
    times: Times


class Study:
    """Measures variants and remembers them.

    ``text`` tokens are counted in FLOPs, KV bytes and times; ``scorer`` is the hash of a learned scorer that was
    opened, to be compared too.
    """

    def __init__(
        self,
        engines: dict[str, PlanEvaluator],
        shapes: Shapes,
        store: Store,
        text: int,
        progress: Progress,
        scorer: str = "",
    ) -> None:
        self.engines, self.shapes, self.store, self.text, self.progress = engines, shapes, store, text, progress
        self.scorer = scorer

    def rows(self, stage: str, some: Sequence[Variant], split: str = "report") -> list[Row]:
        """Measure variants on a split."""
        engine = self.engines[split]
        full = np.asarray(self.right(split, self.shapes.none()), dtype=np.float64)
        pictures = [case.picture for case in engine.cases]
        kinds = np.array([case.kind for case in engine.cases])
        rows = []
        for number, variant in enumerate(some):
            self.progress(stage, number / len(some))
            right = np.mean([self.right(split, plan) for plan in variant.plans], axis=0)
            plan = variant.plans[0]
            rows.append(
                Row(
                    variant.name,
                    variant.remark,
                    plan.keep,
                    mean_tokens(plan),
                    len(right),
                    intervals.accuracy(right, pictures),
                    intervals.retention(right, full, pictures),
                    {kind: float(right[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())},
                    self._flops(plan),
                    sum(kv_bytes(self.shapes.llm, plan.keep, self.text)),
                    Times(0.0, 0.0, 0.0),
                )
            )
        self.progress(stage, 1.0)
        return rows

    def timed(self, rows: list[Row], some: Sequence[Variant]) -> list[Row]:
        """The rows with measured times, taken together in turns."""
        plans = [variant.plans[0] for variant in some]
        key = ["times", self.text, [plan_key(plan) for plan in plans]]
        measured = self.store.of(
            key, lambda: [astuple(t) for t in measure(self.engines["search"], plans, text=self.text)]
        )
        return [replace(row, times=Times(*times)) for row, times in zip(rows, measured, strict=True)]

    def right(self, split: str, plan: Plan) -> list[bool]:
        """Whether each case of a split is answered right."""
        engine = self.engines[split]
        key = [split, len(engine.cases), plan_key(plan)]
        return unpack(self.store.of(key, lambda: pack(engine.right(plan))), len(engine.cases))

    def _flops(self, plan: Plan) -> float:
        """Prefill FLOPs of the uncompressed plan by this one's, on the full picture's count."""
        own = cost(plan, self.shapes.llm, self.text).flops
        return cost(self.shapes.none(), self.shapes.llm, self.text).flops / own


def run(study: Study) -> dict[str, Any]:
    """Every section, as plain data for tables and plots."""
    shapes, text = study.shapes, study.text
    half = variants.halved(shapes, text)
    even = variants.shapes_of_schedule(shapes, text)[0]
    none = Variant("uncompressed", (shapes.none(),))
    results: dict[str, Any] = {"text": text, "grid": shapes.grid, "half": list(half.keep), "even": list(even.keep)}
    results["search"], tuned = _search(study, half, "staged")
    results["search_even"], tuned_even = _search(study, even, "even")
    results["schedules"], best = _schedules(study, tuned, tuned_even)
    results["chosen"] = {"staged": _settings(tuned), "even": _settings(tuned_even), "best": best.name}
    results["horizon"] = study.rows("horizon", variants.horizon(shapes), "side") + study.rows("horizon", [none], "side")
    main = [none, *variants.methods(half, tuned, scorer=study.scorer)]
    main.append(variants.downsampled(shapes, mean_tokens(half), "downsampling, equal tokens"))
    results["main"] = study.timed(study.rows("half the prefill FLOPs", main), main)
    before = variants.methods(even, tuned_even, scorer=study.scorer)
    results["one_shot"] = study.timed(study.rows("even, half the prefill FLOPs", before), before)
    results["encoder"] = {
        f"{share:g}": study.rows(f"encoder, {share:g} of the units", variants.encoder_merges(shapes, share), "side")
        for share in (0.75, 0.5)
    }
    only = shapes.none().changed(last_layer="kv_only")
    drop = shapes.none().changed(keep=(*shapes.none().keep[:-1], 0), last_layer="drop")
    last = [Variant("full", (shapes.none(),)), Variant("kv_only", (only,)), Variant("drop", (drop,))]
    results["last_layer"] = study.timed(study.rows("last layer", last), last)
    results["defaults"] = _defaults(study, tuned, tuned_even, best)
    results["curve"] = _curve(study, tuned, tuned_even)
    results["past"] = past.section(study, study.scorer)
    return results


def _settings(plan: Plan) -> dict[str, Any]:
    method = plan.llm.method
    return {"score": method.name, "rho": method["rho"], "axis": plan.llm.axis, "spectrum": plan.llm.spectrum}


def _search(study: Study, plan: Plan, name: str) -> tuple[list[Row], Plan]:
    """Every reading of the spectrum at one plan's budgets, on the search split, and the best one's plan."""
    some = list(variants.readings(plan))
    rows = study.rows(f"search: readings, {name}", some, "search")
    return rows, max(zip(rows, some, strict=True), key=lambda pair: pair[0].accuracy.value)[1].plans[0]


def _schedules(study: Study, tuned: Plan, tuned_even: Plan) -> tuple[list[Row], Variant]:
    """The same FLOPs spent along the depth in other ways, on the search split, and the best combination."""
    some: list[Variant] = []
    for plan in (variants.halved(study.shapes, study.text), *variants.shapes_of_schedule(study.shapes, study.text)):
        staged = plan.schedule.startswith("speedup")
        for variant in variants.methods(plan, tuned if staged else tuned_even, skip=("fastv", "pyramiddrop")):
            first = variant.plans[0]
            label = f"{'staged' if staged else plan.schedule}: {variant.name}"
            some.append(replace(variant, name=label, remark=" ".join(map(str, first.keep))))
    rows = study.rows("search: schedules", some, "search")
    return rows, max(zip(rows, some, strict=True), key=lambda pair: pair[0].accuracy.value)[1]


def _defaults(study: Study, tuned: Plan, tuned_even: Plan, best: Variant) -> list[Row]:
    """The package's default plan, others at its cost, and what the search found best."""
    shapes = study.shapes
    literal: dict[str, Any] = variants.LITERAL

    def thirds(name: str, keep: float = 0.75, **llm: Any) -> Variant:
        request = PlanRequest(LlmRequest("thirds", **llm), EncoderRequest(keep))
        return Variant(name, (shapes.solved(request),))

    default = shapes.solved(PlanRequest())
    some = [
        Variant(f"default: {default.schedule}, {default.llm.method.name}", (default,)),
        Variant(f"{default.schedule}, SPU as the abstract says", (default.changed(**literal),)),
        thirds("thirds, SPU as the abstract says", **literal),
        thirds("thirds, SPU searched", **variants.filter_of(tuned)),
        thirds("thirds, stride", method=scores.method("stride")),
        thirds("thirds, v2drop", method=scores.method("v2drop")),
        thirds("thirds, merge", reducer="merge"),
        thirds("thirds, merge, no OIM", 1.0, reducer="merge"),
        Variant(f"{default.schedule}, SPU searched", (default.changed(**variants.filter_of(tuned_even)),)),
        Variant(f"{default.schedule}, stride", (default.changed(method=scores.method("stride")),)),
        Variant(f"{default.schedule}, merge", (variants.merged(default),)),
        replace(best, name=f"best of the search: {best.name}"),
    ]
    return study.timed(study.rows("default plans", some), some)


def _curve(study: Study, tuned: Plan, tuned_even: Plan) -> dict[str, list[Row]]:
    """Accuracy and times of the main methods at several budgets, downsampling at several sizes."""
    curves: dict[str, list[Row]] = {name: [] for name in CURVE}
    for speedup in variants.SPEEDUPS:
        plan = variants.halved(study.shapes, study.text, speedup)
        some = [variant for variant in variants.methods(plan, tuned) if variant.name in CURVE]
        for row in study.timed(study.rows(f"curve, {speedup:g}x", some, "side"), some):
            curves[row.name].append(row)
    evens = [
        variants.shaped(study.shapes, study.text, [1.0] * study.shapes.llm.layers, "even", s) for s in variants.SPEEDUPS
    ]
    some = [variants.methods(plan, tuned_even)[1] for plan in evens]
    curves["SPU, settings searched, even"] = study.timed(study.rows("curve, even", some, "side"), some)
    sizes = (variants.downsampled(study.shapes, share * study.shapes.units) for share in (0.8, 0.6, 0.45, 0.3))
    some = [Variant("uncompressed", (study.shapes.none(),)), *dict.fromkeys(sizes)]
    curves["downsampling"] = study.timed(study.rows("curve, downsampling", some, "side"), some)
    return curves


def plain(value: Any) -> Any:
    """Rows as JSON data."""
    return json.loads(json.dumps(value, default=asdict))


def from_plain(data: Any) -> Any:
    """The rows again of what ``plain`` gave, after a file of JSON too.

    Raises:
        BundleError: A value of a row has another type than its field.
    """
    names = {item.name for item in fields(Row)}
    return json.loads(
        json.dumps(data), object_hook=lambda each: from_json_data(Row, each, "row") if each.keys() == names else each
    )
