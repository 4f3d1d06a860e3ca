"""Which sites to keep high: ranked by what each alone does to the predictions, cut where the answers agree enough.

The fewest of the ranking are found by halving, which takes agreement to grow with every site kept high; each of them
is then tried quantised once more, so that none in the result could be spared alone. A smaller set of other sites may
exist: all sets are too many to try.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from luvc_export.core.progress import Progress


@dataclass(frozen=True)
class SiteTrial:
    """One choice that was measured."""

    high: tuple[str, ...]
    agreement: float


@dataclass(frozen=True)
class Found:
    """The choice, and every one that was tried on the way."""

    high: tuple[str, ...]
    agreement: float
    trials: tuple[SiteTrial, ...]


def fewest(
    damage: Callable[[], Mapping[str, float]],
    agreement: Callable[[tuple[str, ...]], float],
    wanted: float,
    progress: Progress = lambda stage, done: None,
) -> Found:
    """Find few sites to keep high.

    Args:
        damage: Asked only if something must stay high: what quantising each site alone does, larger is worse.
        agreement: Share of answers that stay the same when these sites are high.
        wanted: Smallest share that will do; with every site high it is taken to be reached.
        progress: Told (stage, fraction done).
    """
    trials: list[SiteTrial] = []

    def measure(high: tuple[str, ...]) -> bool:
        known = next((trial for trial in trials if set(trial.high) == set(high)), None)
        if known is None:
            known = SiteTrial(high, agreement(high))
            trials.append(known)
        return known.agreement >= wanted

    if measure(()):
        return Found((), trials[-1].agreement, tuple(trials))
    measured = damage()
    ranked = tuple(sorted(measured, key=lambda name: (-measured[name], name)))
    low, top = 0, len(ranked)  # low sites are too few, top will do
    whole = top.bit_length()
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if measure(ranked[:middle]) else (middle, top)
        progress("bisecting", 1 - (top - low).bit_length() / (whole + 1))
    high = ranked[:top]
    for number, name in enumerate(reversed(ranked[:top])):
        fewer = tuple(other for other in high if other != name)
        if len(high) > 1 and measure(fewer):
            high = fewer
        progress("trying each once more", (number + 1) / top)
    measure(high)
    best = next(trial for trial in trials if set(trial.high) == set(high))
    return Found(high, best.agreement, tuple(trials))
