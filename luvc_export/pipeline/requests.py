"""Flat choices by name, as Python's callers and old habits give them, as a request in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from luvc_export.core.plan import Method, Sharing
from luvc_export.core.planning import DEFAULT_SCHEDULE, EncoderRequest, LlmRequest, PlanRequest

#: Names of arguments that are called otherwise in their part.
_RENAMED = {"encoder_prune": "prune", "joint_images": "images", "joint_tiles": "tiles"}
_ENCODER, _LLM, _SHARING = (
    frozenset(each.name for each in fields(part)) for part in (EncoderRequest, LlmRequest, Sharing)
)


def request_of(
    schedule: str | Sequence[int] = DEFAULT_SCHEDULE,
    choices: Mapping[str, Any] | None = None,
    request: PlanRequest | None = None,
) -> PlanRequest:
    """The request that ``schedule`` and ``choices`` make of ``request``.

    Args:
        schedule: See ``LlmRequest``.
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
    parts = [{name: values.pop(name) for name in sorted(known & set(values))} for known in (_ENCODER, _LLM, _SHARING)]
    llm = {"schedule": schedule, "method": method(score, values, base.llm.method), **parts[1]}
    return replace(
        base,
        llm=replace(base.llm, **llm),
        encoder=replace(base.encoder, **parts[0]),
        sharing=replace(base.sharing, **parts[2]),
        **own,
    )


def method(score: str | None, settings: Mapping[str, Any], base: Method | None = None) -> Method:
    """The method of ``score`` with ``settings``; where neither is said, ``base``, or the default score.

    Raises:
        PlanError: See ``request_of``.
    """
    from luvc_export.export.compression import scores

    if base is not None and base.name and score in (None, base.name):
        return scores.method(base.name, **{**dict(base.settings), **settings})
    return scores.method(score or scores.DEFAULT, **settings)
