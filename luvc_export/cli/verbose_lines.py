"""What ``run --verbose`` says beside an answer: the model, the plan, the vocabulary, and what the back-end went by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def verbose_lines(session: Any, answer: Any) -> Iterator[str]:
    """Lines for people; what ``Session.notes`` says already is not among them.

    Args:
        session: A ``Session``.
        answer: Its ``Generation``.
    """
    from luvc_export.runtime.backend_choice import step_times
    from luvc_export.runtime.prompt.template import described

    bundle, manifest = session.bundle, session.bundle.manifest
    entry = bundle.entry(session.default.plan_name)
    yield f"model {manifest.source.model} ({manifest.source.model_type}), exported in {manifest.dtype}"
    height, width = answer.selection.size
    yield f"plan {session.default.plan_name}, products in {entry.precision}, images of {height}x{width}"
    yield f"chat template {described(bundle)}"
    if manifest.vocabulary is None:
        yield f"answers are written with all {manifest.decoder.vocab:,} tokens"
    times = step_times(bundle, session.default.plan_name)
    if times:
        yield "products of a step, tried here: " + ", ".join(
            f"{way} {1000 * spent:.2f} ms" for way, spent in sorted(times.items(), key=lambda item: item[1])
        )
