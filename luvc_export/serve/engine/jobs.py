"""A client's question on its way through the engine, and the events it is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.engine import job as engine
from luvc_export.runtime.engine.embed import Vector, taker
from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.runtime.generation.result import Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.serve.tools.splitting import AnswerShape


@dataclass(frozen=True)
class Piece:
    """Text that an answer grew by, perhaps none yet, the tokens it took, and how many the answer has by now."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...]
    tokens: int = 0


@dataclass(frozen=True)
class Finished:
    """An answer has ended."""

    choice: int
    reason: Literal["stop", "length"]
    tokens: int


@dataclass(frozen=True)
class Ended:
    """All answers of a request have ended: sizes and times.

    Args:
        text_tokens: Of the prompt.
        visual_units: Visual tokens of the prompt before compression.
        visual_tokens: Visual tokens in each layer's cache.
        completion_tokens: Of all answers, end tokens included.
        cached_tokens: Of the prompt, visual ones before compression, that were in the cache.
        timings: Milliseconds by name, and ``cache``: what was found there.
        selection: What became of the pictures.
    """

    text_tokens: int
    visual_units: int
    visual_tokens: tuple[int, ...]
    completion_tokens: int
    cached_tokens: int
    timings: dict[str, Any]
    selection: Selection


@dataclass(frozen=True)
class Failed:
    """Nothing more comes."""

    error: Exception


Event = Piece | Finished | Ended | Failed


class PromptTokens(NamedTuple):
    """Tokens of a prompt.

    Args:
        text: Of them, those of text.
        units: Visual tokens before compression.
        visual: Visual tokens in each layer's cache.
        looked_up: Those that were looked for in the cache of prefixes.
        hits: Of these, those that were there.
    """

    text: int
    units: int
    visual: tuple[int, ...]
    looked_up: int
    hits: int

    @property
    def all(self) -> int:
        """Without compression."""
        return self.text + self.units


class Job(engine.Job):
    """What is asked.

    Args:
        loaded: Plan that answers.
        request: The prompt.
        options: How tokens are chosen; choice i draws with ``seed + i``.
        budget: Tokens an answer may have.
        choices: Answers wanted.
        tell: Called with every event, from the engine's thread; must not block.
        arrived: When the request came (``perf_counter``); None for now.
        prepared_ms: What reading the pictures and the prompt took.
        model: Its name, for metrics.
        client: Who asks: jobs that wait are begun a client after another.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        request: Request,
        options: Sampling,
        budget: int,
        choices: int,
        tell: Callable[[Event], None],
        arrived: float | None = None,
        prepared_ms: float = 0.0,
        model: str = "",
        client: str = "",
    ) -> None:
        super().__init__(loaded, request, self._sequences, choices)
        self.options, self.budget, self.choices, self.tell = options, budget, choices, tell
        self.arrived = perf_counter() if arrived is None else arrived
        self.prepared_ms, self.model, self.client = prepared_ms, model, client
        #: What answers are made of; None where they are text.
        self.shape: AnswerShape | None = None
        #: The vector, float32 [D], once it is there, where the model gives some; and jobs that are given up with this.
        self.vector: NDArray[np.float32] | None = None
        self.beside: Sequence[Job] = ()
        #: Of many vectors, those of images merge to one for so many.
        self.pool = 1

    def cancel(self) -> None:
        """See ``engine.Job``."""
        for one in (self, *self.beside):
            one.cancelled = True

    def _sequences(self, room: int | None) -> Sequence[TokenSequence | Vector]:
        """A token sequence for each choice, or what takes a vector."""
        if not self.loaded.bundle.manifest.does.decodes:
            return [taker(self.loaded, self.request, self.pool)]
        budget = self.budget if room is None else min(self.budget, room)
        sequences = []
        for number in range(self.choices):
            seed = self.options.seed
            options = self.options if seed is None else replace(self.options, seed=seed + number)
            loaded, marks = self.loaded, None if self.shape is None else self.shape.marks
            sequence = TokenSequence(loaded.encoder, options, loaded.ends, budget, self.request.token_ids, marks)
            sequences.append(sequence)
        return sequences


@dataclass(eq=False)
class Progress:
    """Of a job that has started: choices that still grow, log probabilities that were sent, and times so far."""

    job: Job
    first_token: float
    latest_token: float
    open_choices: int
    timings: dict[str, Any]
    visual_tokens: tuple[int, ...]
    selection: Selection
    cached_tokens: int
    completion_tokens: int = 0
    sent: dict[int, int] = field(default_factory=dict)
