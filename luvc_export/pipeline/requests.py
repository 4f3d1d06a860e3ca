"""Flat choices by name, as Python's callers and old habits give them, as a request in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from luvc_export.core.named_plans import DEFAULT_PLAN, NAMED
from luvc_export.core.plan import Method, Sharing
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, PlanRequest

#: Names of arguments that are called otherwise in their part.
_RENAMED = {"encoder_prune": "prune", "joint_images": "images", "joint_tiles": "tiles"}
_ENCODER, _LLM, _SHARING = (
    frozenset(each.name for each in fields(part)) for part in (EncoderRequest, LlmRequest, Sharing)
)


def request_of(
    schedule: str | Sequence[int] | None = None,
    choices: Mapping[str, Any] | None = None,
    request: PlanRequest | None = None,
) -> PlanRequest:
    """The request that ``schedule`` and ``choices`` make of ``request``.

    Args:
        schedule: See ``LlmRequest``; None for that of ``request``.
        choices: Fields of the request's parts by name (``encoder_prune``, ``joint_images`` and ``joint_tiles`` are
            ``EncoderRequest.prune``, ``Sharing.images`` and ``Sharing.tiles``), ``score``, ``topk_limit``; every other
            name is a setting of the score.
        request: What holds where nothing else is said.

    Raises:
        PlanError: There is no such score, or it has not these settings.
    """
    base, named = request or PlanRequest(), dict(choices or {})
    score = named.pop("score", None)
    values = {_RENAMED.get(name, name): value for name, value in named.items()}
    for name in ("merge_at", "kv_only"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    own = {"topk_limit": values.pop("topk_limit")} if "topk_limit" in values else {}
    parts = [{name: values.pop(name) for name in sorted(known & set(values))} for known in (_LLM, _ENCODER, _SHARING)]
    llm = replace(base.llm, schedule=base.llm.schedule if schedule is None else schedule, **parts[0])
    return replace(
        base,
        llm=replace(llm, method=_method(score, values, llm)),
        encoder=replace(base.encoder, **parts[1]),
        sharing=replace(base.sharing, **parts[2]),
        **own,
    )


def _method(score: str | None, settings: Mapping[str, Any], llm: LlmRequest) -> Method:
    """The method asked for, else that of the named plan, else the default, with ``settings``; texts are read."""
    from luvc_export.export.compression import scores

    recipe = NAMED.get(llm.schedule or DEFAULT_PLAN) if isinstance(llm.schedule, str | None) else None
    base = llm.method if llm.method.name else recipe.request.llm.method if recipe else Method()
    if score is not None and score != base.name:
        base = Method(score)
    name = base.name or scores.DEFAULT
    return scores.method(name, **{**dict(base.settings), **scores.parsed(name, settings)})
