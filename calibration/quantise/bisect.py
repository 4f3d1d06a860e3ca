"""Which sites to keep high: ranked by what each alone does to the predictions, cut where the answers agree enough.

The fewest of the ranking are found by halving, which takes agreement to grow with every site kept high; each of them
is then tried quantised once more, so that none in the result could be spared alone. A smaller set of other sites may
exist: all sets are too many to try.

Of a four-bit plan the fewest products get eight bits that keep predictions near the plan's own. Four bits harm a few
products far more than the others, and not those whose own outputs they change most: on glyph_deep two products of the
first layer, 3 % of all weights, do most of the damage. So blocks of the model are rounded each alone and the
predictions are looked at, then each product of the worst blocks. Mixed widths by a ranking are known from HAWQ
(arXiv 1911.03852); that divergence of predictions ranks, and ends the search, is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from luvc_export.errors import Progress


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
    high = ranked = _fewest_first(ranked, measure, progress, "bisecting")
    for number, name in enumerate(reversed(ranked)):
        fewer = tuple(other for other in high if other != name)
        if len(high) > 1 and measure(fewer):
            high = fewer
        progress("trying each once more", (number + 1) / len(ranked))
    measure(high)
    best = next(trial for trial in trials if set(trial.high) == set(high))
    return Found(high, best.agreement, tuple(trials))


def _fewest_first(
    ranked: tuple[str, ...], will_do: Callable[[tuple[str, ...]], bool], progress: Progress, stage: str
) -> tuple[str, ...]:
    """The fewest of the first of ``ranked`` that ``will_do``, as all of them do, by halving."""
    low, top = 0, len(ranked)  # low are too few, top will do
    whole = top.bit_length()
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if will_do(ranked[:middle]) else (middle, top)
        progress(stage, 1 - (top - low).bit_length() / (whole + 1))
    return ranked[:top]


#: Cases whose predictions say how far a choice of widths moves them.
OBSERVED = 32
#: Share of the divergence asked for that a block may move alone before its products are looked at one by one.
_MUCH = 0.25
#: How near a choice must come to eight bits everywhere where those move predictions further than asked already.
_NEAR = 1.25
_BLOCK = re.compile(r".*?\.\d+(?=\.)")


def fewest_wide(
    sizes: Mapping[str, int],
    alone: Callable[[tuple[str, ...]], float],
    moved: Callable[[tuple[str, ...]], float],
    wanted: float,
    progress: Progress = lambda stage, done: None,
) -> tuple[str, ...]:
    """Find few products to give eight bits: those that do most damage for their size, by halving.

    Args:
        sizes: Numbers of the weight of each product by its name; a block is what comes before and with its number.
        alone: How far predictions move when these alone have four bits and the others are not rounded, in nats.
        moved: How far they move when these have eight bits and the others four.
        wanted: How far they may; where eight bits everywhere move them further, a quarter more than those do.
        progress: Told (stage, fraction done).
    """
    if moved(()) <= wanted:
        return ()
    ranked = _ranked(sizes, alone, wanted, progress)
    wanted = max(wanted, _NEAR * moved(ranked))
    return _fewest_first(ranked, lambda some: moved(some) <= wanted, progress, "finding what needs eight bits")


def _ranked(
    sizes: Mapping[str, int], alone: Callable[[tuple[str, ...]], float], wanted: float, progress: Progress
) -> tuple[str, ...]:
    """Products by damage for their size, worst first; behind them those of blocks that do little, block by block."""
    blocks: dict[str, list[str]] = {}
    for name in sizes:
        block = _BLOCK.match(name)
        blocks.setdefault(block[0] if block else name, []).append(name)
    damage: dict[str, float] = {}
    for number, (block_name, names) in enumerate(blocks.items()):
        damage[block_name] = alone(tuple(names))
        progress("ranking what rounding each block moves", (number + 1) / len(blocks))
    left = [block_name for block_name in blocks if damage[block_name] <= _MUCH * wanted]
    single = [name for block_name, names in blocks.items() if block_name not in left for name in names]
    left.sort(key=lambda block_name: -damage[block_name] / sum(sizes[name] for name in blocks[block_name]))
    each: dict[str, float] = {}
    for number, name in enumerate(single):
        each[name] = alone((name,))
        progress("ranking what rounding each product moves", (number + 1) / len(single))
    worst = sorted(single, key=lambda name: (-each[name] / sizes[name], name))
    return (*worst, *(name for block_name in left for name in blocks[block_name]))
