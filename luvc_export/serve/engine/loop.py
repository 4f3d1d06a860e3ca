"""The server's thread: it queues jobs, steps the engine that owns every model call, and tells clients what came.

Clients take turns, one of several has its share of rows, one without finds one.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

from luvc_export.runtime.engine.embed import Vector
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.engine.generate import selection_of
from luvc_export.runtime.engine.job import Answer, Began, Event, Refused
from luvc_export.runtime.engine.prefill import prefix_length
from luvc_export.runtime.engine.scheduler import Engine as Scheduler
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.serve.engine.jobs import Ended, Failed, Finished, Job, Piece, Progress, PromptTokens

#: Seconds for which a client counts that has asked: its next question finds a row.
LATELY = 2.0
#: Seconds after which a job begins before others, however many rows it takes.
PATIENCE = 60.0


class Turns:
    """Orders jobs. Used in the engine's thread.

    Args:
        rows: Answers that grow at once.
    """

    def __init__(self, rows: int) -> None:
        self._rows, self._half = rows, max(1, rows // 2)
        self._asked: dict[str, float] = {}
        #: Jobs that wait although rows may be free.
        self.held_back: list[Job] = []

    def order(self, waiting: deque[Any], arriving: Sequence[Job], growing: Counter[str]) -> int:
        """Put into ``waiting`` what may begin, in order: of several clients those with the fewest rows first.

        A client's jobs beyond its share of the rows are ``held_back`` while others have asked lately: rows that are
        free for a moment would all be its own otherwise, for as long as its answers grow. A share is the rows divided
        by clients, half of them at most, and a client's first job may take that half. Gives the rows that there are for
        the first: half as many more where its client has none, as another may have had all before it came.

        Args:
            waiting: Jobs that could begin so far.
            arriving: Those that came.
            growing: Rows that clients have.
        """
        now = perf_counter()
        if arriving:
            self._asked = {one: at for one, at in self._asked.items() if now - at < LATELY}
            self._asked |= dict.fromkeys((job.client for job in arriving), now)
        jobs = sorted([*waiting, *self.held_back, *arriving], key=lambda job: job.arrived)
        if not jobs:
            return self._rows
        self._asked |= dict.fromkeys((job.client for job in jobs), now)
        active = {one for one, at in self._asked.items() if now - at < LATELY} | growing.keys()
        if len(active) < 2:
            ranked = list(enumerate(jobs))
            self.held_back = []
        else:
            before, ranked, self.held_back = growing.copy(), [], []
            share = min(self._half, -(-self._rows // len(active)))
            for job in jobs:
                rank, late = before[job.client], now - job.arrived > PATIENCE
                before[job.client] += job.choices
                if late or before[job.client] <= (share if rank else self._half) or job.cancelled:
                    ranked.append((-1 if late else rank, job))
                else:
                    self.held_back.append(job)
            ranked.sort(key=lambda pair: pair[0])
        waiting.clear()
        waiting.extend(job for _, job in ranked)
        first = waiting[0] if waiting and len(active) > 1 else None
        more = self._rows // 2 if first is not None and not growing[first.client] and first.choices <= self._half else 0
        return self._rows + more


#: Seconds after which jobs that were held back for others' sake are looked at again, where nothing else is.
PAUSE = 0.05


class Observer(Protocol):
    """Told what the engine does, for metrics."""

    def prefilled(self, model: str, timings: dict[str, Any], prompt: PromptTokens) -> None:
        """A prompt was prefilled."""

    def stepped(
        self, model: str, rows: int, seconds: float, drafts: DraftCounts | None = None, since: Sequence[float] = ()
    ) -> None:
        """So many rows got a token, or with ``drafts`` several, each ``since`` seconds after its last."""

    def finished(self, model: str, tokens: int, seconds: float) -> None:
        """An answer has ended, so long after its first token."""


class Engine:
    """Answers clients' jobs in a thread of its own.

    Args:
        cache: Of pictures.
        rows: Answers that grow at once.
        queue: Jobs that wait at most.
        observer: Told what happens.
        prepare: Called first, in the engine's thread; what it raises is kept as ``error`` and ends the engine.
        broken: Called then.
    """

    def __init__(
        self,
        cache: FeatureCache,
        rows: int,
        queue: int,
        observer: Observer,
        prepare: Callable[[], object] = lambda: None,
        broken: Callable[[], object] = lambda: None,
    ) -> None:
        self.cache, self._queue, self._observer = cache, queue, observer
        self.scheduler = Scheduler(cache, answers=rows)
        self._turns = Turns(rows)
        self._arriving: deque[Job] = deque()
        self._changed = threading.Condition()
        self._progress: dict[Any, Progress] = {}
        self._prepare, self._broken = prepare, broken
        self._ending = False
        self._promised = 0
        #: Whether ``prepare`` is done.
        self.ready = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        #: Prefills and steps in the order in which they ran, for tests; None records nothing.
        self.trace: list[str] | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def has_room(self, more: int = 0) -> bool:
        """Whether a place in the queue is free, of ``more`` than it has."""
        return not self._ending and self.waiting < self._queue + more

    def reserve(self, more: int = 0) -> bool:
        """Take a place in the queue, of ``more`` than it has, for a request that is being read; False without one."""
        with self._changed:
            if not self.has_room(more):
                return False
            self._promised += 1
            return True

    def release(self) -> None:
        """Give up a place taken by ``reserve``."""
        with self._changed:
            self._promised -= 1

    def submit(self, job: Job) -> None:
        """Queue a job at the place taken by ``reserve``."""
        with self._changed:
            self._promised -= 1
            self._arriving.append(job)
            self._changed.notify()

    def follow(self, job: Job) -> None:
        """Queue a job at the place of one of its request that has ended; called in the engine's thread."""
        with self._changed:
            self._arriving.append(job)

    def drain(self) -> None:
        """Take no more jobs; the thread ends when those there are done."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the thread after ``drain``; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Jobs that wait, those still being read included."""
        return len(self._arriving) + len(self.scheduler.waiting) + len(self._turns.held_back) + self._promised

    @property
    def running(self) -> int:
        """Answers that grow."""
        return self.scheduler.running

    def _run(self) -> None:
        try:
            self._prepare()
        except Exception as error:
            self.error = error
            self._broken()
            return
        self.ready.set()
        while True:
            with self._changed:
                while not self._arriving and self.scheduler.idle and not self._turns.held_back:
                    if self._ending:
                        return
                    self._changed.wait()
                if self.scheduler.idle and not self._arriving:
                    self._changed.wait(PAUSE)
                arriving = list(self._arriving)
                self.scheduler.limit = self._turns.order(self.scheduler.waiting, arriving, self._growing())
                self._arriving.clear()
            for event in self.scheduler.step():
                self._tell_all(event)

    def _growing(self) -> Counter[str]:
        """Answers that grow, by client."""
        growing = Counter[str]()
        for job, progress in self._progress.items():
            growing[job.client] += 0 if job.cancelled else progress.open_choices
        return growing

    def _tell_all(self, event: Event) -> None:
        """Tell clients what came of a prompt or a step."""
        if isinstance(event, Refused):
            assert isinstance(event.job, Job)
            event.job.tell(Failed(event.error))
        elif isinstance(event, Began):
            self._begin(event)
        else:
            self._note(f"step {len(event.answers)}")
            job = next((one.job for one in event.answers if one.job is not None), None)
            if isinstance(job, Job):
                since = self._since_last(event.answers)
                self._observer.stepped(job.model, len(event.answers), event.seconds, event.drafts, since)
            for answer in event.answers:
                self._tell(answer)

    def _since_last(self, answers: Sequence[Answer]) -> list[float]:
        """Of each answer seconds since it got a token before; it has one now."""
        now, jobs = perf_counter(), [self._progress[one.job] for one in answers if one.job in self._progress]
        since = [now - progress.latest_token for progress in jobs]
        for progress in jobs:
            progress.latest_token = now
        return since

    def _begin(self, event: Began) -> None:
        job, prefilled, now = event.job, event.prefilled, perf_counter()
        assert isinstance(job, Job)
        self._note("prefill")
        loaded, request, images = job.loaded, job.request, len(job.request.images)
        units = images * loaded.plan.units
        visual = loaded.plan.cache_rows(images // loaded.plan.sharing.images, 0)
        timings = {
            "prepare_ms": job.prepared_ms,
            "queue_ms": 1000 * (prefilled.begun_at - job.arrived) - job.prepared_ms,
            "vision_ms": prefilled.vision_ms,
            "prefix_ms": prefilled.prefix_ms,
            "question_ms": prefilled.question_ms,
            "ttft_ms": 1000 * (now - job.arrived),
            "cache": prefilled.source,
        }
        selection = selection_of(loaded, request, prefilled.merged_into, prefilled.kept)
        cached = {"none": 0, "image": units, "prefix": units + len(request.token_ids) - images - _asked(job)}
        cached_tokens = cached[prefilled.source]
        self._progress[job] = Progress(job, now, now, job.choices, timings, visual, selection, cached_tokens)
        text, looks = len(request.token_ids) - images, units and self.cache.limit
        hits = cached_tokens if prefilled.source == "prefix" else 0
        tokens = PromptTokens(text, units, visual, text + units if looks else 0, hits)
        self._observer.prefilled(job.model, timings, tokens)
        for answer in event.answers:
            self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        """Tell a job about the tokens one of its answers got. One that failed ends its job alone."""
        job, sequence = answer.job, answer.chooser
        assert isinstance(job, Job) and isinstance(sequence, TokenSequence | Vector)
        progress = self._progress.get(job)
        if job.cancelled or progress is None:
            self._progress.pop(job, None)
            return
        if answer.failed is not None:
            job.tell(Failed(answer.failed))
            job.cancel()
            del self._progress[job]
            return
        if isinstance(sequence, Vector):
            job.vector = sequence.value
            del self._progress[job]
            self._observer.finished(job.model, 0, perf_counter() - progress.first_token)
            job.tell(_ended(progress))
            return
        text = sequence.piece()
        at_end = sequence.at_end  # OpenAI's logprobs are those of the text
        sent = progress.sent.get(answer.number, 0)
        logprobs = tuple(sequence.logprobs[sent : len(sequence.logprobs) - at_end])
        if text or sequence.done:
            progress.sent[answer.number] = len(sequence.logprobs)
            job.tell(Piece(answer.number, text, logprobs, len(sequence.ids)))
        if not sequence.done:
            return
        progress.completion_tokens += len(sequence.ids)
        progress.open_choices -= 1
        self._observer.finished(job.model, len(sequence.ids), perf_counter() - progress.first_token)
        job.tell(Finished(answer.number, sequence.finish_reason, len(sequence.ids)))
        if not progress.open_choices:
            job.tell(_ended(progress))
            del self._progress[job]

    def _note(self, what: str) -> None:
        if self.trace is not None:
            self.trace.append(what)


def _ended(progress: Progress) -> Ended:
    request, images = progress.job.request, len(progress.job.request.images)
    timings = {**progress.timings, "decode_ms": 1000 * (perf_counter() - progress.first_token)}
    return Ended(
        len(request.token_ids) - images,
        images * progress.job.loaded.plan.units,
        progress.visual_tokens,
        progress.completion_tokens,
        progress.cached_tokens,
        timings,
        progress.selection,
    )


def _asked(job: Job) -> int:
    """Text tokens after the cut of a prompt."""
    token = job.loaded.bundle.manifest.prompt.image_token_id
    cut = prefix_length(job.request, token, job.loaded.plan.grid)
    return 0 if cut is None else len(job.request.token_ids) - cut
