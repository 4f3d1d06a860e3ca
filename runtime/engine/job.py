"""A question on its way through the engine, the answers that grow of it, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.engine.feature_cache import Source
from luvc_export.runtime.generation.sequence import TokenChooser
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import StepResult
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import State, VisualFeatures

#: Makes what chooses the tokens of each answer. Told how many tokens an answer may have in its slot; None: any number.
Choosers = Callable[[int | None], Sequence[TokenChooser]]


@dataclass(frozen=True)
class Past:
    """A conversation so far: the plan it ran with, the ids and images its caches hold, and where it stands.

    ``features`` are the images' features, where a smaller model drafts with them.
    """

    loaded: LoadedPlan
    token_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    state: State
    features: VisualFeatures | None = None

    def begins(self, request: Request) -> bool:
        """Whether a chat's next request begins with all that is held, and has more."""
        held, shown = len(self.token_ids), len(self.images)
        same = request.token_ids[:held] == self.token_ids and len(request.token_ids) > held
        same = same and request.adapter is self.state.adapter
        return same and np.array_equal(request.images[:shown], self.images)


@dataclass(eq=False)
class Job:
    """What is asked of the engine.

    Args:
        loaded: Plan that answers.
        request: The prompt, all of it.
        choosers: Makes a token chooser for each answer that is wanted.
        answers_wanted: How many that are.
        past: What of the prompt is in the caches already.
        keeps: Answers that have ended say where they stand (``Answer.state``).
    """

    loaded: LoadedPlan
    request: Request
    choosers: Choosers
    answers_wanted: int = 1
    past: Past | None = None
    keeps: bool = False
    #: Set by any thread: nobody waits for the answers any more.
    cancelled: bool = False
    #: Jobs that came later and went before, because their plan was loaded.
    overtaken: int = 0

    def cancel(self) -> None:
        """Give the answers up; their slots are free before the next token."""
        self.cancelled = True


@dataclass(eq=False)
class Answer:
    """An answer in the making.

    Args:
        chooser: Chooses its tokens, and says when it ends.
        job: What it answers; None for prompts without one.
        number: Which of the job's answers it is.
        features: Of its pictures, for a draft model with an equal encoder (``LoadedPlan.draft_features``).
        failed: What ended it, where choosing a token or a step did.
        drafts: How its drafts fared, where some were made.
        state: Where it stands without its last token, once it has ended and its job ``keeps``.
        nbytes: Bytes of its caches, once it has ended.
    """

    chooser: TokenChooser
    job: Job | None = None
    number: int = 0
    features: VisualFeatures | None = None
    failed: Exception | None = None
    drafts: DraftCounts | None = None
    state: State | None = None
    nbytes: float = 0.0

    @property
    def ended(self) -> bool:
        """It takes no more tokens."""
        return self.failed is not None or self.chooser.done

    @property
    def one_more(self) -> bool:
        """A step is worth computing before the step under way has been read: the budget does not end the answer."""
        return len(self.chooser.ids) + 1 < self.chooser.budget

    def take(self, step: StepResult) -> None:
        """Choose a token; whatever goes wrong is ``failed``."""
        if step.failed is not None:
            self.failed = step.failed
            return
        try:
            self.chooser.take(step)
        except Exception as error:
            self.failed = error

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self.failed is not None:
            raise self.failed


@dataclass(frozen=True)
class Prefilled:
    """What running a job's prompt took.

    Args:
        kept: See ``Step``, of the pictures.
        merged_into: See ``VisualFeatures``, of all images of the call.
        source: What the feature cache had: pictures as encoded, or all of the prompt up to the last picture.
        begun_at: When it began (``perf_counter``), graphs loaded.
        vision_ms: The vision graph; 0.0 without images.
        prefix_ms: The decoder up to the last picture, where prompts are cut there.
        question_ms: The decoder over what is left, or over the whole prompt where it is not cut.
        features: See ``LoadedPlan.draft_features``; also None where the cache holds the prompt up to the last picture
            alone.
    """

    kept: dict[int, NDArray[np.int64]]
    merged_into: NDArray[np.int64] | None
    source: Source
    begun_at: float
    vision_ms: float
    prefix_ms: float
    question_ms: float
    features: VisualFeatures | None = None

    @property
    def prefill_ms(self) -> float:
        """The decoder over the whole prompt."""
        return self.prefix_ms + self.question_ms


@dataclass(frozen=True)
class Began:
    """A job's prompt has run, and each of its answers has its first token, or has failed."""

    job: Job
    prefilled: Prefilled
    answers: Sequence[Answer] = field(repr=False)


@dataclass(frozen=True)
class Stepped:
    """Answers of a plan took tokens, or failed. ``drafts`` are those of all of them, where some were made."""

    loaded: LoadedPlan
    answers: Sequence[Answer] = field(repr=False)
    seconds: float
    drafts: DraftCounts | None = None


@dataclass(frozen=True)
class Refused:
    """A job's prompt could not run; nothing more comes of it."""

    job: Job
    error: Exception


Event = Began | Stepped | Refused
