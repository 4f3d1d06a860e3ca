"""How many tokens an answer may have: what the model's context and the bundle's text capacity leave."""

from __future__ import annotations

from luvc_export.bundle.manifest import Manifest
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.prompt.request import Request


def room(manifest: Manifest, plan: Plan, request: Request, wanted: int | None = None) -> int:
    """How many tokens may be generated: ``wanted``, or as many as fit.

    Raises:
        UsageError: The prompt, or the prompt and ``wanted``, do not fit the model's context (counted without
            compression, as its positions are) or the bundle's text capacity; or there is no text.
    """
    text = len(request.token_ids) - len(request.images)
    if not text:
        raise UsageError("the prompt has no text", where="prompt", fix="ask something")
    visual = len(request.images) * plan.units
    limits = (
        ("the model's context", manifest.decoder.context - visual, "ask less, or about fewer pictures"),
        ("the bundle's text capacity", manifest.prompt.text_capacity, "export with a larger --text-capacity"),
    )
    for name, limit, fix in limits:
        if text + (wanted or 1) > limit:
            places = f" + {visual} visual places" if "context" in name else ""
            raise UsageError(
                f"the prompt is longer than {name}",
                where="prompt" if text >= limit else "prompt and max_new_tokens",
                got=f"{text} text tokens{places} + {wanted or 'at least 1'} new",
                expected=f"at most {limit + (visual if places else 0)} in all",
                fix=fix if text >= limit else f"max_new_tokens of {limit - text} or less; or {fix}",
            )
    return wanted or min(limit for _, limit, _ in limits) - text
