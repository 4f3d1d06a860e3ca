"""Greedy descent: from every token down, always to where most prefill cost is saved per answer that changes.

Two kinds of step compete at every turn: a block of layers gets fewer tokens, or one layer more is frozen.

Budgets never grow along the depth, so lowering a block of layers lowers what follows. Fewer tokens never agree better
(nearly true, and assumed): a block whose step misses the bar is not tried again at that step. Steps begin coarse, a few
blocks and a third of their tokens, and end fine. What the descent ends at is then shaken: a block gets some tokens
back, and the descent goes on without it, as long as that ends cheaper.

What the search chose is asked of the held-out part, before anything of it was seen, and held against default plans.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from luvc_export.calibration import intervals
from luvc_export.calibration.budgets.space import Keep, Merges, Space
from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.calibration.intervals import Interval
from luvc_export.core.plan import TENSORRT_TOPK_LIMIT
from luvc_export.errors import CheckFailed, Progress

#: (blocks of layers at most, what a step leaves of a block's tokens), coarse to fine.
STEPS = ((6, 0.7), (12, 0.85), (24, 0.94))

#: The same where a cost is to be met and not the bar: it is overshot by less than a step.
FAST = ((8, 0.85),)

Block = tuple[int, int]

#: In place of a block of layers: freeze the next one of ``Space.order``.
FREEZE: Block = (-1, -1)


def search(trials: Trials, space: Space, progress: Progress = lambda stage, done: None) -> PlanTrial | None:
    """The cheapest plan of ``space`` that was found to hold, or None if not even the full one does."""
    best = min(_descents(trials, space, STEPS, 0, progress), key=lambda trial: trial.flops, default=None)
    return best and shake(trials, space, best, progress)


def fastest(
    trials: Trials, space: Space, flops: int, progress: Progress = lambda stage, done: None
) -> PlanTrial | None:
    """The plan of at most ``flops`` that was found to agree best, whatever the bar; None if none costs as little."""
    cheap = (trial for trial in _descents(trials, space, FAST, flops, progress) if trial.flops <= flops)
    return min(cheap, key=lambda trial: trial.wrong, default=None)


def _descents(
    trials: Trials, space: Space, steps: Collection[tuple[int, float]], until: int, progress: Progress
) -> Iterator[PlanTrial]:
    """Where ``descend`` ends for every way to merge in the encoder."""
    for merges in space.merges:
        stage = f"budgets, {space.encoded(merges)} tokens encoded"
        progress(stage, 0.0)
        trial = descend(trials, space, merges, space.full(merges), steps, partial(progress, stage), until=until)
        progress(stage, 1.0)
        if trial is not None:
            yield trial


def descend(
    trials: Trials,
    space: Space,
    merges: Merges,
    keep: Keep,
    steps: Collection[tuple[int, float]],
    progress: Callable[[float], None] = lambda done: None,
    fixed: Collection[int] = (),
    frozen: int = 0,
    until: int = 0,
) -> PlanTrial | None:
    """Lower blocks from ``keep`` on, and freeze layers, until no step holds; layers in ``fixed`` keep what they have.

    A plan of at most ``until`` FLOPs ends it.

    Returns:
        The trial of the last budgets that hold; None if ``keep`` itself does not.
    """
    here = trials.of(space.plan(merges, keep, frozen))
    if not here.holds:
        return None
    for number, (count, factor) in enumerate(steps):
        alive = [block for block in blocks(space.whole, space.horizon, count) if block[0] not in fixed]
        alive += [FREEZE]
        total = len(alive)
        while alive and here.flops > until:
            after = [(block, step) for block in alive if (step := _step(space, keep, frozen, block, factor))]
            moves = sorted((trials.flops(space.plan(merges, *step)), block, step) for block, step in after)
            tried: list[tuple[PlanTrial, Step]] = []
            for _, block, step in moves:
                trial = trials.of(space.plan(merges, *step))
                if not trial.holds:
                    alive.remove(block)
                    continue
                tried.append((trial, step))
                if trial.wrong <= here.wrong:
                    break
            progress((number + 1 - len(alive) / max(1, total)) / len(steps))
            if not tried:
                break
            here, (keep, frozen) = max(
                tried, key=lambda pair: (here.flops - pair[0].flops) / max(0.5, pair[0].wrong - here.wrong)
            )
    return here


Step = tuple[Keep, int]


def _step(space: Space, keep: Keep, frozen: int, block: Block, factor: float) -> Step | None:
    """Budgets and frozen layers after one step; None where there is none left."""
    if block == FREEZE:
        return (keep, frozen + 1) if frozen < len(space.order) else None
    budgets = lowered(keep, block, factor)
    return None if budgets is None else (budgets, frozen)


def shake(trials: Trials, space: Space, best: PlanTrial, progress: Progress = lambda stage, done: None) -> PlanTrial:
    """Give one block some tokens back and lower the others, again and again while that is cheaper."""
    count, factor = STEPS[-1]
    cheaper: PlanTrial | None = best
    while cheaper:
        best, cheaper = cheaper, None
        keep = best.plan.keep[: space.horizon]
        todo = blocks(space.whole, space.horizon, count)
        for number, block in enumerate(todo):
            progress("shaking the best", number / len(todo))
            raised_keep = raised(keep, block, factor, best.plan.span_tokens)
            if raised_keep is None:
                continue
            still = space.frozen(best.plan)
            other = descend(
                trials, space, best.plan.encoder.merges, raised_keep, STEPS[-1:], fixed=range(block[1]), frozen=still
            )
            if other and other.flops < best.flops:
                cheaper = other
                break
    progress("shaking the best", 1.0)
    return best


def blocks(first: int, last: int, count: int) -> list[Block]:
    """Layers ``first`` to ``last`` (exclusive) in at most ``count`` runs of nearly equal length."""
    length = last - first
    count = min(count, length)
    return [(first + i * length // count, first + (i + 1) * length // count) for i in range(count)]


def lowered(keep: Keep, block: Block, factor: float) -> Keep | None:
    """``keep`` with at most ``factor`` of the block's tokens from its first layer on; None where it has none."""
    first = block[0]
    if not keep[first]:
        return None
    top = min(int(keep[first] * factor), keep[first] - 1, TENSORRT_TOPK_LIMIT)
    return (*keep[:first], *(min(count, top) for count in keep[first:]))


def raised(keep: Keep, block: Block, factor: float, most: int) -> Keep | None:
    """``keep`` with more tokens up to the end of ``block``; None where there are no more to give."""
    bottom = min(most, int(keep[block[0]] / factor) + 1)
    raised_keep = (*(max(count, bottom) for count in keep[: block[1]]), *keep[block[1] :])
    return None if raised_keep == keep else raised_keep


#: Plans below this agreement are of no interest.
_LOWEST = 0.9


def pareto(trials: Iterable[PlanTrial]) -> list[PlanTrial]:
    """Those no other one beats, dearest first."""
    unbeaten: list[PlanTrial] = []
    for trial in sorted(trials, key=lambda trial: (trial.flops, -trial.agreement.value)):
        if not unbeaten or trial.agreement.value > unbeaten[-1].agreement.value:
            unbeaten.append(trial)
    return unbeaten[::-1]


def frontier(trials: Trials) -> list[PlanTrial]:
    """The frontier of everything tried, each plan of it asked every question.

    A plan that was given up early is known from few questions: those that look good are finished until nothing
    unfinished is left among the best.
    """
    while True:
        unbeaten = pareto(trial for trial in trials.made.values() if trial.agreement.value >= _LOWEST)
        open_ = [trial for trial in unbeaten if not trial.whole]
        if not open_:
            return unbeaten
        for trial in open_:
            trials.whole(trial.plan)


def peer(trials: Trials, other: PlanTrial) -> PlanTrial:
    """The cheapest plan, asked every question, that agrees at least as well as ``other`` there."""
    equal = [trial for trial in trials.made.values() if trial.whole and trial.wrong <= other.wrong]
    return min(equal, key=lambda trial: (trial.flops, trial.wrong))


@dataclass(frozen=True)
class Against:
    """A searched plan against a default one, both on the held-out part.

    Attributes:
        name: Of the default.
        ours: The cheapest plan of the search that agreed at least as well as the default on the calibration part.
        theirs: The default.
        gap: Agreement of ours minus theirs, paired by question.
    """

    name: str
    ours: PlanTrial
    theirs: PlanTrial
    gap: Interval

    @property
    def ratio(self) -> float:
        """Prefill FLOPs of the default by ours."""
        return self.theirs.flops / self.ours.flops

    @property
    def beats(self) -> bool:
        """Whether ours is cheaper and agrees at least as well on the held-out part."""
        return self.ratio > 1 and self.gap.value >= 0

    @property
    def verdict(self) -> str:
        """In words."""
        if self.ratio <= 1:
            return f"the search found nothing cheaper than {self.name} at its agreement"
        comparison = (
            f"{self.ratio:.2f}x fewer prefill FLOPs than {self.name}; agreement {100 * self.gap.value:+.2f} points"
        )
        comparison += f" ({100 * self.gap.low:+.2f} to {100 * self.gap.high:+.2f})"
        if self.beats:
            return f"beats it: {comparison}"
        return (
            f"does not beat it: {comparison}"
            if self.gap.high < 0
            else f"not shown to beat it, cheaper but undecided: {comparison}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "default": self.name,
            "ours": plain(self.ours),
            "theirs": plain(self.theirs),
            "flops_ratio": self.ratio,
            "difference": list(self.gap),
            "beats": self.beats,
        }


def against(name: str, ours: PlanTrial, theirs: PlanTrial, held_out: Trials) -> Against:
    """Measure two plans on the held-out part."""
    gap = intervals.difference(held_out.verdicts(ours.plan), held_out.verdicts(theirs.plan), held_out.part.clusters)
    return Against(name, held_out.whole(ours.plan), held_out.whole(theirs.plan), gap)


def passes(trial: PlanTrial, bar: float) -> bool:
    """Whether the chosen plan still agrees at the bar on questions that had no part in choosing it.

    The estimate is judged, not its lower bound: the bound was held on the calibration part with a margin that another
    draw of questions need not show again.
    """
    return trial.whole and trial.agreement.value >= bar


def unconfirmed(what: str, where: str, trial: PlanTrial, bar: float, fix: str) -> CheckFailed:
    """What to raise where a plan does not pass on the held-out part."""
    got = f"agreement {trial.agreement.text(4)} on {trial.asked} questions"
    return CheckFailed(what, where=where, got=got, expected=f"at least {bar:g}", fix=fix)


def plain(trial: PlanTrial) -> dict[str, Any]:
    """A trial as JSON data."""
    return {
        "keep": list(trial.plan.keep),
        "kv_only": list(trial.plan.llm.kv_only),
        "vision_tokens": trial.plan.vision_tokens,
        "flops": trial.flops,
        "agreement": list(trial.agreement),
        "asked": trial.asked,
        "disagree": trial.wrong,
        "holds": trial.holds,
    }
