"""What slots for adapters cost: steps and prompts of a bundle with slots and of the same without, in turns.

Run: python benchmarks/measure/times/slots_cost.py PLAIN SLOTS [--backend cpu] [--arithmetic auto] [--plan NAME]

Prints Markdown. A pair of a plain call and a call with slots stands beside each other, in either order by turns, as a
shared machine's pace moves; the ratio is the median of the pairs', with its interval of 95 % (order statistics). With
adapters: one of full rank beside every product, three of them in the batch of the call, and none again: both engines
have slots from the first adapter on.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from luvc_export.bundle.adapters.peft_folder import Adapter
from luvc_export.bundle.manifest import LoraSlots
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.engine.host_slots import HostSlots
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.session import Session

WARM, STEPS, PROMPTS, TEXT = 3, 24, 8, 64


def adapter(slots: LoraSlots, seed: int) -> Adapter:
    """An adapter of full rank beside every product, of numbers that mean nothing."""
    random = np.random.default_rng(seed)
    factors = {
        slot: (
            random.standard_normal((entering, slots.rank), np.float32) / 100,
            random.standard_normal((slots.rank, leaving), np.float32) / 100,
        )
        for slot, (entering, leaving) in slots.slots.items()
    }
    return Adapter(f"random {seed}", slots.rank, factors, str(seed))


def pairs(
    base: Session, other: Session, adapters: list[Adapter | None], count: int, count_prompts: int = PROMPTS
) -> tuple[list[float], list[float]]:
    """Ratios of prompts and of steps, ``other`` by ``base``, and seconds of the base's steps; a row an adapter."""
    ids = [int(i) for i in np.random.default_rng(0).integers(300, 1000, TEXT)]
    sides = [(base, [None] * len(adapters)), (other, adapters)]
    prompts: list[list[float]] = [[], []]
    steps: list[list[float]] = [[], []]
    states: list[Any] = []
    for number in range(1 + count_prompts):
        states = [None, None]
        for side in (0, 1) if number % 2 else (1, 0):
            session, rows = sides[side]
            begin = perf_counter()
            states[side] = HostSlots(session.default.graphs)
            states[side].join([TokensPrompt(ids, adapter=row) for row in rows])
            prompts[side] += [perf_counter() - begin] if number else []
    for number in range(WARM + count):
        for side in (0, 1) if number % 2 else (1, 0):
            begin = perf_counter()
            states[side].step({slot: [7] for slot in states[side].held})
            steps[side] += [perf_counter() - begin] if number >= WARM else []
    ratios = [slot / plain for plain, slot in zip(*steps, strict=True)]
    return [slot / plain for plain, slot in zip(*prompts, strict=True)], [statistics.median(steps[0]), *ratios]


def middle_of(ratios: list[float]) -> str:
    """Median and its interval of 95 %: the ranks that a binomial count lies between."""
    ranked, half = sorted(ratios), 0.98 * math.sqrt(len(ratios))
    low = max(0, math.floor(len(ranked) / 2 - half))
    return f"{statistics.median(ranked):.3f} ({ranked[low]:.3f} to {ranked[-1 - low]:.3f})"


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path)
    parser.add_argument("slots", type=Path)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--arithmetic", default="auto")
    parser.add_argument("--plan")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--empty", action="store_true", help="leave out three adapters in a batch")
    options = parser.parse_args()
    how = {"backend": options.backend, "plan": options.plan, "arithmetic": options.arithmetic}
    base, other = (Session(folder, **how) for folder in (options.plain, options.slots))
    record = other.bundle.manifest.lora
    assert record is not None, "the second bundle has slots"
    one, *rest = (adapter(record, seed) for seed in range(3))
    print(f"{', '.join(cpu_features())}; {base.backend.name}, {base.backend.arithmetic}, rank {record.rank}\n")
    print("| rows | adapters | prompt of 64 tokens, by plain (95 %) | step, by plain (95 %) | plain step ms |")
    print("|---:|---|---:|---:|---:|")
    rows: list[tuple[str, list[Adapter | None]]] = [("none", [None]), ("one", [one]), ("three", [one, *rest])]
    rows.append(("none, after them", [None]))
    rows = [row for row in rows if not options.empty or row[1] == [None] or row[0] == "one"]
    for name, asked in rows:
        prompts, (middle, *ratios) = pairs(base, other, asked, options.steps, options.prompts)
        cells = f"{middle_of(prompts)} | {middle_of(ratios)} | {1000 * middle:.1f}"
        print(f"| {len(asked)} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
