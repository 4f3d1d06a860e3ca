"""What this machine can do: its matrix rate and memory bandwidth, measured, and the share of them a bundle reaches.

The roofline model of Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures" (CACM 52(4), 2009): prefill is held by arithmetic, decode by the bytes it reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from luvc_export.runtime.bench.measure import Timed

_SIDE = 1536
_BYTES = 256 * 2**20
_RUNS = 5


@dataclass(frozen=True)
class Machine:
    """FLOP/s of an fp32 matrix product and bytes/s read by matrix times vector, with ``threads`` threads."""

    flops: float
    bandwidth: float
    threads: int


@dataclass(frozen=True)
class Roofline:
    """Shares of the machine's limits, 1 being the limit."""

    prefill: float
    decode: float


def measure_machine(threads: int | None = None) -> Machine:
    """Measure with numpy's BLAS, one part of the work a thread; the best of several runs, as a limit should be."""
    count = threads or _cores()
    random = np.random.default_rng(0)
    left = [random.standard_normal((_SIDE, _SIDE), np.float32) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        product = _best(lambda: list(pool.map(lambda part: part @ part, left)))
    return Machine(count * 2 * _SIDE**3 / product, bandwidth_reader(count)(), count)


def bandwidth_reader(threads: int | None = None) -> Callable[[], float]:
    """What measures bytes/s as ``measure_machine`` does, its memory made once; call it beside what it is to judge."""
    count = threads or _cores()
    wide = [np.ones((_BYTES // 4 // 4096, 4096), np.float32) for _ in range(count)]
    vector = np.ones(4096, np.float32)

    def read() -> float:
        with ThreadPoolExecutor(count) as pool:
            return count * _BYTES / _best(lambda: list(pool.map(lambda part: part @ vector, wide)))

    return read


def roofline(timed: Timed, machine: Machine) -> Roofline:
    """Prefill against the matrix rate, a decode step against the bandwidth; medians.

    Bandwidth is that of the moment where it was measured after each run: on a machine that others use it moves by half
    from one minute to the next.
    """
    prefill = timed.facts.prefill_flops / (timed.stat("prefill_ms").median / 1000) / machine.flops
    there = timed.bandwidths or (machine.bandwidth,) * len(timed.samples)
    speeds = [sample.tokens_per_s / limit for sample, limit in zip(timed.samples, there, strict=True)]
    return Roofline(prefill, timed.facts.decode_bytes * float(np.median(speeds)))


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_RUNS + 1):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return min(times[1:])


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
