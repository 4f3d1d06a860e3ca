"""Options of what a prune ranks tokens by, and whether a plan heeds the options that shape one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from luvc_export.core.options import Asked, option
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError


def _help_score(context: typer.Context, wanted: bool) -> None:
    """Print the settings of ``--score``, of every score where none is named, and end."""
    if not wanted:
        return
    from luvc_export.export.compression import scores

    named = context.params.get("score")
    for name in [named] if named else scores.names():
        print("\n".join(scores.help_lines(name)))
    raise typer.Exit


_shaping = partial(option, tags=("shapes",))


@dataclass(frozen=True)
class ScoreOptions:
    """What a prune ranks tokens by."""

    score: str | None = _shaping(
        None, "What a prune ranks tokens by, such as low or dart; default: the plan's.", eager=True
    )
    score_option: tuple[str, ...] = option(
        (), "A setting of the score; repeat.", metavar="NAME=VALUE", tags=("shapes", "by hand")
    )
    help_score: bool = option(False, "Show the settings of --score NAME and exit.", eager=True, callback=_help_score)
    rho: float | None = _shaping(None, "As --score-option rho=: share of the spectrum below the cutoff.")
    steps: int | None = _shaping(None, "As --score-option steps=: rounds in which scope and maxmin choose.")
    scorer: Path | None = option(None, "Learned scorer, .safetensors; the score is then learned.", metavar="FILE")

    def choices(self) -> dict[str, Any]:
        """What was said, by the names that ``make_plan`` takes; the score reads the texts of its settings.

        Raises:
            UsageError: An option is no NAME=VALUE, says a setting twice, or a learned scorer stands beside another
                score.
            PlanError: The file of ``--scorer`` is no scorer.
        """
        shorthands = {"rho": self.rho, "steps": self.steps, "score": self.score}
        settings: dict[str, Any] = {name: value for name, value in shorthands.items() if value is not None}
        for text in self.score_option:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier() or name == "score" or name in settings:
                raise UsageError(
                    "say each setting once" if name in settings else "this is no setting",
                    where="--score-option",
                    got=text,
                    expected="NAME=VALUE, such as rho=0.1",
                )
            settings[name] = value
        if self.scorer is not None:
            settings["score"], settings["scorer"] = learned(self.score, self.scorer)
        return settings

    def check_used(self, plans: Iterable[Plan]) -> None:
        """Refuse a scorer that no plan prunes by.

        Raises:
            UsageError: As said.
        """
        if self.scorer is None:
            return
        _, sha256 = learned(self.score, self.scorer)
        if not any(("scorer", sha256) in plan.llm.method.settings and plan.prunes_tokens for plan in plans):
            raise UsageError(
                "no plan uses this scorer",
                where="--scorer",
                got=f"sha256 {sha256[:16]}...",
                expected="a plan of the score 'learned' that names it",
                fix="leave it out",
            )


def learned(score: str | None, file: Path) -> tuple[str, str]:
    """The score that ``--scorer`` asks for, and the sha256 of its file, which is read and checked.

    Args:
        score: Of ``--score``.
        file: Of ``--scorer``.

    Raises:
        UsageError: Another score is asked for.
        PlanError: The file is no scorer.
    """
    if score not in (None, "learned"):
        raise UsageError(
            "a scorer is for the score 'learned'", where="--scorer", got=f"--score {score}", fix="leave --score out"
        )
    from luvc_export.export.compression.scorer_file import open_scorer

    return "learned", open_scorer(file).sha256


def check_shaping(stated: Iterable[Asked], sources: Iterable[str | list[int] | Plan]) -> None:
    """Refuse options that none of the plans asked for would heed.

    Args:
        stated: Options of the command line.
        sources: What ``options.plan_source`` gives.

    Raises:
        UsageError: Every plan comes whole from a file, or compresses nothing.
    """
    schedules = [source for source in sources if not isinstance(source, Plan)]
    if any(source != "none" for source in schedules):
        return
    unheeded = [each for each in stated if "shapes" in each.option.tags]
    if schedules:  # a plan that compresses nothing has a last layer
        unheeded = [each for each in unheeded if each.name != "last_layer"]
    if unheeded:
        raise UsageError(
            "a plan that compresses nothing heeds no such option" if schedules else "a plan file says this itself",
            where="--plan",
            got=", ".join(each.flag for each in unheeded),
            fix="leave them out" if schedules else "luvc-export plan ... -o FILE makes another file",
        )
