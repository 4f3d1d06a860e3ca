"""One case through a session: what it kept, what it said, and the logits it said it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.session import Session
from luvc_export.runtime.state import Step


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
    session: Session, pictures: Sequence[Any], prompt: str, longest: int, told: Sequence[int] | None = None
) -> Answer:
    """Answer a case with at most ``longest`` tokens.

    Args:
        session: Who answers.
        pictures: As ``Session.generate`` takes them.
        prompt: The question.
        longest: Tokens at most.
        told: Tokens to go on with in place of its own, so that one that differs does not change all that follow.

    Raises:
        LuvcError: See ``Session.generate``.
    """
    request = session.prepare(list(pictures), prompt)
    session.token_limit(request, longest)
    ends = session.bundle.manifest.prompt.eos_token_ids
    times: list[tuple[str, float]] = []
    started = perf_counter()
    shown = request.images, request.padding, request.units
    seen = session.encode_images(*shown) if len(request.images) else None
    times.append(("vision", _since(started)))
    started = perf_counter()
    step = session.run(request.token_ids, seen, blocks=request.blocks)
    times.append(("prefill", _since(started)))
    kept, rows, tokens = step.kept, [step.logits[0, -1]], [_chosen(step)]
    while len(tokens) < (longest if told is None else len(told)) and (told is not None or tokens[-1] not in ends):
        next_token = tokens[-1] if told is None else told[len(tokens) - 1]
        started = perf_counter()
        step = session.run([next_token], None, step.state)
        times.append(("decode", _since(started)))
        rows.append(step.logits[0, -1])
        tokens.append(_chosen(step))
    text = session.encoder.tokenizer.decode(tokens)
    return Answer(tuple(request.token_ids), tuple(tokens), text, np.stack(rows), kept, tuple(times))


def _chosen(step: Step) -> int:
    """The token that greedy decoding takes: the one the decoder chose, where it does."""
    return int(step.logits[0, -1].argmax()) if step.chosen is None else step.chosen


def _since(started: float) -> float:
    return (perf_counter() - started) * 1000
