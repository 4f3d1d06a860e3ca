"""Time several cases in turns, A B A B, and say how much the figures spread."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from luvc_export.errors import Progress
from luvc_export.runtime.bench.case import METRICS, BenchCase, CaseFacts, Sample
from luvc_export.runtime.bench.worker import Worker
from luvc_export.runtime.call_times import Part
from luvc_export.runtime.session_options import session_options


@dataclass(frozen=True)
class Stat:
    """Median and quartiles of repeated figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Stat:
        """Median, first and third quartile (linear between neighbours)."""
        low, median, high = (float(value) for value in np.percentile(figures, (25, 50, 75)))
        return cls(median, low, high)


@dataclass(frozen=True)
class Timed:
    """One case and all its runs, warm-up left out; bytes/s read right after each, where that was measured."""

    facts: CaseFacts
    samples: tuple[Sample, ...]
    bandwidths: tuple[float, ...] = ()

    def stat(self, metric: str) -> Stat:
        """Statistics of one of ``METRICS``."""
        return Stat.of([getattr(sample, metric) for sample in self.samples])

    @property
    def call_kinds(self) -> tuple[tuple[Part, str], ...]:
        """What calls of the decoder were for, and the engine that ran them, as they first came."""
        return tuple(dict.fromkeys((call.part, call.engine) for sample in self.samples for call in sample.calls))

    def call_ms(self, part: Part, engine: str) -> Stat:
        """Milliseconds of a call of one of ``call_kinds``: each run's mean, of the runs that had some."""
        kind = part, engine
        return Stat.of([call.ms for run in self.samples for call in run.calls if (call.part, call.engine) == kind])

    def to_json(self) -> dict[str, Any]:
        """Plain data: facts, statistics, calls by engine, and every run; what is not a number becomes None."""
        stats = {metric: dataclasses.asdict(self.stat(metric)) for metric in METRICS}
        runs = [dataclasses.asdict(sample) for sample in self.samples]
        for run in runs:
            run["calls"] = [{**call, "ms": 1000 * call["seconds"] / call["calls"]} for call in run["calls"]]
        values = {"facts": dataclasses.asdict(self.facts), "stats": stats, "runs": runs, "bandwidths": self.bandwidths}
        values["engines"] = [
            {"part": part, "engine": engine, "ms": dataclasses.asdict(self.call_ms(part, engine))}
            for part, engine in self.call_kinds
        ]
        data: dict[str, Any] = _plain(values)
        return data


def measure(
    cases: Sequence[BenchCase],
    repeats: int = 5,
    warm_up: int = 1,
    progress: Progress = lambda stage, done: None,
    bandwidth: Callable[[], float] | None = None,
) -> list[Timed]:
    """Load every bundle and plan in a process of its own, warm each case up, then run them in turns.

    ``bandwidth`` is called after each run: ``machine.bandwidth_reader``. Raises what ``Worker`` raises.
    """
    turns, samples, read = warm_up + repeats, [list[Sample]() for _ in cases], [list[float]() for _ in cases]
    groups = {_group(case): case for case in cases}
    with ExitStack() as stack:
        workers: dict[Hashable, Worker] = {}
        for index, (group, case) in enumerate(groups.items()):
            progress("loading", index / len(groups))
            workers[group] = stack.enter_context(Worker(case))
        progress("loading", 1.0)
        for turn in range(turns):
            for index, case in enumerate(cases):
                sample = workers[_group(case)].run(case)
                if turn >= warm_up:
                    samples[index].append(sample)
                    read[index] += [bandwidth()] if bandwidth else []
                progress("timing", (turn * len(cases) + index + 1) / (turns * len(cases)))
        every = zip(cases, samples, read, strict=True)
        return [Timed(workers[_group(case)].facts(case), tuple(runs), tuple(rates)) for case, runs, rates in every]


def _group(case: BenchCase) -> Hashable:
    """Cases that one process can serve."""
    return case.bundle, repr(session_options(case))


def ratio(first: Timed, second: Timed, metric: str) -> Stat:
    """``second`` by ``first``, run by run: each pair ran one after the other."""
    pairs = zip(first.samples, second.samples, strict=True)
    return Stat.of([getattr(b, metric) / getattr(a, metric) if getattr(a, metric) else math.nan for a, b in pairs])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """How cost grows with size: slope of a line through the logarithms (1 linear, 2 quadratic)."""
    return float(np.polyfit(np.log(np.asarray(sizes)), np.log(np.asarray(costs)), 1)[0])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
