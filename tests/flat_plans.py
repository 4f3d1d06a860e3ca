"""Plans of a few words for tests: fields of every part by name, the score and its settings beside them."""

from __future__ import annotations

from typing import Any

from luvc_export.core.options import keywords_of
from luvc_export.core.plan import EncoderPlan, LlmPlan, Method, Plan, Sharing, schema_1
from luvc_export.core.planning import EncoderRequest, LlmRequest, PlanRequest

#: Rounds grow unless an old plan file says nothing of them.
_SETTINGS = schema_1.SETTINGS | {"rounds": "growing"}


def score_method(score: str, settings: dict[str, Any]) -> Method:
    """The method as a plan of schema 1 is read, without torch: settings that the score has not are left out."""
    data = schema_1.method_of({**_SETTINGS, **settings, "score": score}, "a test's plan")
    return Method(**{**data, "settings": tuple(sorted(data["settings"].items()))})


def flat_plan(
    grid: Any, keep: Any, merges: Any = (), last_layer: Any = "drop", score: str = "residual", **fields: Any
) -> Plan:
    """A plan of fields by their names in schema 1; settings among them."""
    fields |= {"grid": grid, "keep": keep, "merges": merges, "last_layer": last_layer}
    settings = {name: fields.pop(name) for name in _SETTINGS if name in fields}
    parts: list[dict[str, Any]] = []
    for names in (schema_1.ENCODER, schema_1.LLM, schema_1.SHARING):
        parts.append({now: fields.pop(name) for name, now in names.items() if name in fields})
    encoder, llm, sharing = parts
    llm["method"] = score_method(score, settings)
    return Plan(EncoderPlan(**encoder), LlmPlan(**llm), Sharing(**sharing), **fields)


def replan(plan: Plan, **fields: Any) -> Plan:
    """``plan`` with other values of fields, by their names in schema 1."""
    settings = {name: fields.pop(name) for name in _SETTINGS if name in fields}
    score = fields.pop("score", None)
    if settings or score:
        method = plan.llm.method
        fields["method"] = score_method(score or method.name, {**dict(method.settings), **settings})
    names = {**schema_1.ENCODER, **schema_1.LLM, **schema_1.SHARING}
    return plan.changed(**{names.get(name, name): value for name, value in fields.items()})


def flat_request(schedule: Any = None, merge_keep: Any = None, score: str = "", **choices: Any) -> PlanRequest:
    """A request by the names that ``make_plan`` takes, without torch."""
    settings = {name: choices.pop(name) for name in _SETTINGS if name in choices}
    choices |= {"schedule": schedule, "merge_keep": merge_keep}
    if score or settings:
        choices["method"] = score_method(score or "residual", settings)
    parts: list[dict[str, Any]] = []
    for part in (LlmRequest, EncoderRequest, Sharing):
        names = keywords_of(part)
        parts.append({field: choices.pop(name) for name, field in names.items() if name in choices})
    llm, encoder, sharing = parts
    return PlanRequest(LlmRequest(**llm), EncoderRequest(**encoder), Sharing(**sharing), **choices)
