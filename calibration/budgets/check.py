"""The held-out part: the plan that the search chose, before anything of it was seen, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luvc_export.calibration.budgets import evidence
from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.calibration.intervals import Interval


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
    gap = evidence.difference(held_out.verdicts(ours.plan), held_out.verdicts(theirs.plan), held_out.part.clusters)
    return Against(name, held_out.whole(ours.plan), held_out.whole(theirs.plan), gap)


def passes(trial: PlanTrial, bar: float) -> bool:
    """Whether the chosen plan still agrees at the bar on questions that had no part in choosing it.

    The estimate is judged, not its lower bound: the bound was held on the calibration part with a margin that another
    draw of questions need not show again.
    """
    return trial.whole and trial.agreement.value >= bar


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


def all_plain(trials: Sequence[PlanTrial]) -> list[dict[str, Any]]:
    """Several."""
    return [plain(trial) for trial in trials]
