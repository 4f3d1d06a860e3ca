"""Cases of a sweep: over the number of tokens, or over the budgets a bundle was exported with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from luvc_export.bundle.folder import load
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.measure import Timed, exponent

SweepAxis = Literal["tokens", "budget"]

_STEPS = 6
_IMAGES = (1, 2, 3)


@dataclass(frozen=True)
class Point:
    """One case of a sweep.

    Args:
        case: What is timed.
        tokens: Visual and text tokens a layer sees, mean over layers.
    """

    case: BenchCase
    tokens: float


def points(case: BenchCase, kind: SweepAxis) -> list[Point]:
    """The cases of a sweep around ``case``, fewest tokens first.

    ``tokens``: text doubles from 32 to what the bundle takes, without images; then 1, 2 and 3 images.
    ``budget``: every plan of the bundle.

    Raises:
        UsageError: The bundle cannot be read or has no such plan.
    """
    bundle = load(case.bundle)
    manifest = bundle.manifest
    plans = {name: entry.plan for name, entry in manifest.plans.items()}
    chosen = bundle.entry(case.plan).plan
    if kind == "budget":
        cases = [replace(case, plan=name, label=name) for name in plans]
    else:
        room = manifest.prompt.text_capacity - case.new_tokens
        texts = [text for text in (32 * 2**step for step in range(_STEPS)) if text <= room] or [room]
        images = [count for count in _IMAGES if count * chosen.units + texts[0] <= manifest.decoder.context]
        shapes = [(0, text) for text in texts] + [(count, texts[0]) for count in images]
        cases = [replace(case, images=i, text=t, label=f"{i} images, {t} text tokens") for i, t in shapes]
    swept = []
    for one in cases:
        keep = plans[one.plan or manifest.default_plan].keep
        swept.append(Point(one, one.text + one.images * sum(keep) / len(keep)))
    return sorted(swept, key=lambda point: point.tokens)


def growth(swept: Sequence[Point], timed: Sequence[Timed]) -> float:
    """Exponent of prefill time over tokens a layer: 1 is linear, 2 quadratic."""
    return exponent([point.tokens for point in swept], [one.stat("prefill_ms").median for one in timed])
