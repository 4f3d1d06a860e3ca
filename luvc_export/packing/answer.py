"""One case through a session: what it kept, what it said, and the logits it said it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.engine.job import Job
from luvc_export.runtime.engine.scheduler import Engine, began
from luvc_export.runtime.generation.sequence import GreedyTokens
from luvc_export.runtime.session import Session


@dataclass(frozen=True)
class Answer:
    """What a model did with a case.

    Args:
        prompt_ids: Tokens of the prompt, a placeholder for each image.
        token_ids: What was said, greedily (as the decoder itself chose, where it does); the end token included.
        text: The same as text.
        logits: float32 [len(token_ids), vocab]: row i chose token i, after the reference's tokens before it.
        kept: For each pruning layer with a budget above 0, int64 [G, keep]: visual tokens that enter it.
        milliseconds: Of ``vision``, ``prefill`` and every ``decode``.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    logits: NDArray[np.float32]
    kept: dict[int, NDArray[np.int64]]
    milliseconds: tuple[tuple[str, float], ...] = ()


def answer(
    session: Session, pictures: Sequence[Any], prompt: str, longest: int, forced: Sequence[int] | None = None
) -> Answer:
    """Answer a case with at most ``longest`` tokens.

    Args:
        session: Who answers.
        pictures: As ``Session.generate`` takes them.
        prompt: The question.
        longest: Tokens at most.
        forced: Tokens to go on with in place of its own, so that one that differs does not change all that follow.

    Raises:
        LuvcError: See ``Session.generate``.
    """
    request = session.prepare(list(pictures), prompt)
    session.token_limit(request, longest)
    loaded = session.plan_of(request)
    ends = session.bundle.manifest.prompt.eos_token_ids if forced is None else ()
    chooser = GreedyTokens(longest if forced is None else len(forced), ends, forced, keep_logits=True)
    engine, job = Engine(answers=1), Job(loaded, request, lambda room: [chooser])
    engine.submit(job)
    prefilled, (grown,) = began(engine.step(), job)
    times = [("vision", prefilled.vision_ms), ("prefill", prefilled.prefill_ms)]
    while not grown.ended:
        started = perf_counter()
        engine.step()
        times.append(("decode", (perf_counter() - started) * 1000))
    grown.check()
    text = session.encoder.tokenizer.decode(chooser.ids)
    logits = np.stack(chooser.logits)
    return Answer(tuple(request.token_ids), tuple(chooser.ids), text, logits, prefilled.kept, tuple(times))
