"""A request on its way through the engine, and what it is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.runtime.generation.result import Selection
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.serve.engine.prefill import Found


@dataclass(frozen=True)
class Piece:
    """Text that an answer grew by, perhaps none yet, and the tokens it took."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...]


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


@dataclass(eq=False)
class Job:
    """What is asked.

    Args:
        loaded: Plan that answers.
        request: The prompt.
        options: How tokens are chosen; choice i draws with ``seed + i``.
        budget: Tokens an answer may have.
        choices: Answers wanted.
        tell: Called with every event, from the engine's thread; must not block.
        arrived: When the request came (``perf_counter``).
        prepared_ms: What reading the pictures and the prompt took.
        model: Its name, for metrics.
    """

    loaded: LoadedPlan
    request: Request
    options: Sampling
    budget: int
    choices: int
    tell: Callable[[Event], None]
    arrived: float = field(default_factory=perf_counter)
    prepared_ms: float = 0.0
    model: str = ""
    #: Set by any thread: nobody waits for the answer any more.
    cancelled: bool = False
    #: Jobs that came later and went before, because their plan was loaded.
    overtaken: int = 0

    def cancel(self) -> None:
        """Give the answer up; its rows are free before the next token."""
        self.cancelled = True


@dataclass(eq=False)
class Progress:
    """Of a job that has started: choices that still grow, and times so far."""

    job: Job
    found: Found
    first_token: float
    open_choices: int
    timings: dict[str, Any]
    visual_tokens: tuple[int, ...]
    selection: Selection
    cached_tokens: int
    completion_tokens: int = 0
