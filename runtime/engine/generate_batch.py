"""Several questions at once, every answer as it would be alone: prompts share calls, and join as others end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypedDict

from luvc_export.errors import LuvcError, UsageError
from luvc_export.runtime.engine.generate import generation, selection_of
from luvc_export.runtime.engine.job import Answer, Began, Job, Prefilled, Refused
from luvc_export.runtime.engine.scheduler import Engine
from luvc_export.runtime.generation.result import Generation
from luvc_export.runtime.generation.sampling import OPTIONS, Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import PhaseSeconds
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.media.video import VideoSource
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.prompt.request_fields import hint
from luvc_export.runtime.prompt.template import Message


class Ask(TypedDict, total=False):
    """One question of a batch: arguments of ``Session.generate`` by name."""

    image: Picture | Sequence[Picture] | None
    prompt: str | None
    messages: Sequence[Message] | None
    video: VideoSource | None
    fps: float | None
    image_tokens: int | None
    adapter: str | None
    chat_template_kwargs: Mapping[str, Any] | None


@dataclass(frozen=True)
class Prepared:
    """A question of a batch made ready: the plan that answers, the request, and tokens its answer may have."""

    loaded: LoadedPlan
    request: Request
    budget: int


@contextmanager
def in_row(row: int) -> Iterator[None]:
    """Say in errors which of the questions it was."""
    try:
        yield
    except LuvcError as error:
        where = f"requests[{row}]" + (f": {error.where}" if error.where else "")
        rest = {"got": error.got, "expected": error.expected, "fix": error.fix}
        raise type(error)(error.what, where=where, **rest) from error  # type: ignore[arg-type]


def check_ask(ask: Mapping[str, Any]) -> None:
    """Refuse names that ``Ask`` does not have.

    Raises:
        UsageError: There is one.
    """
    known = Ask.__annotations__
    for name in ask:
        if name not in known:
            fix = hint(name, known, dict.fromkeys(OPTIONS, "generate_batch, which is of all rows"))
            listed = f"known: {', '.join(sorted(known))}"
            raise UsageError("unknown part of a question", got=name, expected=listed, fix=fix)


def answer_batch(ready: Sequence[Prepared], options: Sampling, spent: float) -> list[Generation]:
    """Generate one answer for each of ``requests``: a job of an engine each.

    Prompts about equally many images run in one call, as far as there is room; the others join as answers end. Padding
    is masked, and stands after everything in logical order, so that no token attends to it.

    Args:
        ready: Questions made ready, of any plans.
        options: How tokens are chosen; each answer draws with a random state of its own.
        spent: Seconds that preparing took.

    Raises:
        Exception: What ended one of the answers.
    """
    sequences: dict[Job, TokenSequence] = {}

    def job_of(row: Prepared) -> Job:
        def choosers(room: int | None) -> list[TokenSequence]:
            budget = row.budget if room is None else min(row.budget, room)
            loaded, request = row.loaded, row.request
            sequences[job] = TokenSequence(loaded.encoder, options, loaded.ends, budget, request.token_ids)
            return [sequences[job]]

        job = Job(row.loaded, row.request, choosers)
        return job

    jobs, engine = [job_of(row) for row in ready], Engine(together=True)
    for job in sorted(jobs, key=lambda job: not job.loaded.is_resident):  # plans that are loaded come first
        engine.submit(job)
    ended: dict[Job, Generation] = {}
    first: dict[Job, tuple[Prefilled, float]] = {}
    while not engine.idle:
        for event in engine.step():
            now = perf_counter()
            if isinstance(event, Refused):
                raise event.error
            if isinstance(event, Began):
                first[event.job] = event.prefilled, now
            for answer in event.answers:
                answer.check()
                if answer.ended and (own := answer.job) is not None:
                    ended[own] = _generation(own, answer, sequences[own], spent, *first[own], now)
    return [ended[job] for job in jobs]


def _generation(
    job: Job, answer: Answer, sequence: TokenSequence, ready: float, prefilled: Prefilled, first: float, now: float
) -> Generation:
    """An answer that has ended at ``now``, whose first token was there at ``first``; times are those of its call."""
    loaded, request = job.loaded, job.request
    times = prefilled.vision_ms / 1000, prefilled.prefill_ms / 1000, ready + first - prefilled.begun_at
    visual = loaded.plan.cache_rows(len(request.images) // loaded.plan.sharing.images, 0)
    selection = selection_of(loaded, request, prefilled.merged_into, prefilled.kept)
    spent = PhaseSeconds(ready, *times, now - first)
    return generation(loaded, sequence, spent, answer.nbytes, visual, selection, drafts=answer.drafts)
