"""The frontier: plans such that no other one tried is both cheaper and agrees at least as well."""

from __future__ import annotations

from collections.abc import Iterable

from luvc_export.calibration.budgets.trials import Trial, Trials

#: Plans below this agreement are of no interest.
_LOWEST = 0.9


def pareto(trials: Iterable[Trial]) -> list[Trial]:
    """Those no other one beats, dearest first."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.flops, -trial.agreement.value)):
        if not found or trial.agreement.value > found[-1].agreement.value:
            found.append(trial)
    return found[::-1]


def frontier(trials: Trials) -> list[Trial]:
    """The frontier of everything tried, each plan of it asked every question.

    A plan that was given up early is known from few questions: those that look good are finished until nothing
    unfinished is left among the best.
    """
    while True:
        found = pareto(trial for trial in trials.made.values() if trial.agreement.value >= _LOWEST)
        open_ = [trial for trial in found if not trial.whole]
        if not open_:
            return found
        for trial in open_:
            trials.whole(trial.plan)


def peer(trials: Trials, other: Trial) -> Trial:
    """The cheapest plan, asked every question, that agrees at least as well as ``other`` there."""
    equal = [trial for trial in trials.made.values() if trial.whole and trial.wrong <= other.wrong]
    return min(equal, key=lambda trial: (trial.flops, trial.wrong))
