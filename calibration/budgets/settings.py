"""Which score a search prunes by, and how wide its filter is: asked of the calibration part before budgets are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from luvc_export.calibration.budgets.space import Space
from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.core.plan import Method
from luvc_export.export.compression import scores

#: Widths of the filter, narrow to wide.
RHOS = (0.1, 0.25, 0.5)

#: Scores that are tried where none is named: none reads the question, all prune before layer 0, each won somewhere.
SCORES = ("residual", "scope", "maxmin", "dart")
#: Of these, what looks at keys: not for models some of whose layers have none.
READS_KEYS = ("dart",)

#: Shares of the encoded tokens, in every layer up to the horizon, at which settings are compared.
SHARES = (0.5, 0.25)


@dataclass(frozen=True)
class Setting:
    """What a plan ranks tokens by, and its trials at ``SHARES``."""

    switches: dict[str, Any]
    trials: tuple[PlanTrial, ...]

    @property
    def agreement(self) -> float:
        """Mean over the shares."""
        return sum(trial.agreement.value for trial in self.trials) / len(self.trials)

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(
            f"{name} {value:g}" if not isinstance(value, str) else value[:16] for name, value in self.switches.items()
        )


def method(switches: dict[str, Any]) -> Method:
    """The method that ``switches``, of ``candidates``, say."""
    return scores.method(switches["score"], **{name: value for name, value in switches.items() if name != "score"})


def candidates(
    score: str | None, rho: float | None, scorer: str = "", steps: int | None = None, keyed: bool = True
) -> list[dict[str, Any]]:
    """What may be chosen where ``score`` and ``rho`` are given (or not, None), and a learned scorer by its hash.

    ``keyed``: every layer of the model has keys.
    """
    choices: list[dict[str, Any]] = []
    fitting = [name for name in SCORES if keyed or name not in READS_KEYS]
    for name in fitting if score is None else (score,):
        widths = (RHOS if rho is None else (rho,)) if scores.find(name).reads_spectrum else ()
        choices += [{"score": name, "rho": width} for width in widths] or [{"score": name}]
    if steps is not None:
        choices = [each | {"steps": steps} for each in choices]
    if scorer:
        choices = [each for each in choices if each["score"] != "learned"]
        choices.append({"score": "learned", "scorer": scorer})
    return choices


def choose(trials: Trials, space: Space, some: Sequence[dict[str, Any]]) -> list[Setting]:
    """All of ``some``, the best first; the earlier of equals. One is not tried at all."""
    if len(some) == 1 or not space.horizon:
        return [Setting(dict(each), ()) for each in some]
    asked = []
    for switches in some:
        own = replace(space, switches={**space.switches, "method": method(switches)})
        keeps = [(round(share * space.encoded(())),) * space.horizon for share in SHARES]
        asked.append(Setting(dict(switches), tuple(trials.some(own.plan((), keep)) for keep in keeps)))
    return sorted(asked, key=lambda each: -each.agreement)
