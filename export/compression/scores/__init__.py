"""Scores a prune ranks visual tokens by, one a file; a plan names one.

``low``, ``residual`` and ``ratio`` are readings of the paper's low-pass filter (reconstruction), which surgery fuses;
the others are baselines and stay as they are traced. A score is a file of this folder with ``SCORE``, found by its
name. A package outside this one adds one through the entry-point group ``luvc_export.scores``: the entry's name is the
score's, its value ``module:SCORE`` (docs/research.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from luvc_export.core.plan import Method, Plan
from luvc_export.errors import PlanError
from luvc_export.export.compression.scores._settings import method_of, parsed_values
from luvc_export.export.compression.scores.base import LayerContext as LayerContext
from luvc_export.export.compression.scores.base import Score, check
from luvc_export.export.compression.scores.base import ScoreInput as ScoreInput
from luvc_export.export.compression.scores.base import ScoreSetting as ScoreSetting
from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.scores"
#: What plans choose by unless they say (docs/results/ablation.md).
DEFAULT = "residual"


def _misfit(name: str, score: Any) -> str | None:
    if not isinstance(score, Score):
        return "an instance of luvc_export.export.compression.scores.base.Score"
    check(name, score)
    return None


_SCORES: Registry[Score] = Registry(
    "score", __name__, ENTRY_POINTS, "SCORE", _misfit, PlanError,
    where="plan.llm.method.name", fix="name one of these, or add one: docs/research.md",
)  # fmt: skip


#: Every score a plan may name, and those of this package; the score of a name.
names, built_in, find = _SCORES.names, _SCORES.built_in, _SCORES.find


def method(name: str = DEFAULT, **settings: Any) -> Method:
    """The method of a plan: the score called ``name`` with these settings, defaults and facts filled in.

    Raises:
        PlanError: There is no such score, or it has not these settings; lists every problem.
    """
    return method_of(name, find(name), settings, _built_in_with)


def _built_in_with(setting: str) -> list[str]:
    return [name for name in built_in() if setting in find(name).settings]


def parsed(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of the score called ``name``, those that are texts read as what the score declares.

    Raises:
        PlanError: There is no such score, or a text cannot be read.
    """
    return parsed_values(name, find(name).settings, settings)


def help_lines(name: str) -> list[str]:
    """What ``--help-score`` says of a score: its settings, or that it has none.

    Raises:
        PlanError: There is no such score.
    """
    score = find(name)
    about = (score.__doc__ or "").strip().splitlines()
    lines = [f"{name}: {about[0]}" if about else name]
    for setting, each in score.settings.items():
        default = "needed" if each.default is None else f"default {each.default}"
        lines.append(f"  {setting} ({each.range}; {default}): {each.help}")
    return lines if score.settings else [*lines, "  no settings"]


def described(plan: Plan) -> Plan:
    """``plan`` with what its score says of itself: settings that a plan leaves out, and facts.

    A plan that names no score has the default one.

    Raises:
        PlanError: There is no such score, or its settings do not fit it or the plan.
    """
    name = plan.llm.method.name or DEFAULT
    score = find(name)
    whole = replace(plan, llm=replace(plan.llm, method=method(name, **dict(plan.llm.method.settings))))
    if plan.llm.reducer == "prune" and (lines := score.problems(whole)):
        raise PlanError("the plan does not fit:\n" + "\n".join(f"  - llm.method.settings.{line}" for line in lines))
    return whole


def constant(plan: Plan, layer: int, tokens: int, channels: int) -> Tensor | None:
    """What the plan's score reads at the prune before ``layer``: a low-pass basis, indices, or nothing.

    Raises:
        PlanError: The score compares two layers and there is none before.
    """
    score = find(plan.llm.method.name)
    if layer == (plan.apart or 0) and score.needs_layer_before:
        raise PlanError(
            "this score compares two layers, and there is none before the first prune",
            where="plan.llm.apart" if layer else "plan.keep[0]",
            got=f"score {plan.llm.method.name!r} keeping {plan.keep[layer]} of {plan.span_tokens} tokens at layer 0",
            fix="prune from layer 1 on, or choose another score",
        )
    return score.constant(plan, layer, tokens, channels)
