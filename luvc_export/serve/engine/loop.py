"""The engine: one thread that owns every model call.

A turn is: at most one prefill, then one token for everybody. So nobody who is being answered waits for more than one
prefill between two tokens, and whoever comes gets a first token after the prefill of those before and one step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

from luvc_export.runtime.backend import RowBackend, RowStep
from luvc_export.runtime.generation.answer import selection_of
from luvc_export.runtime.generation.rows import OneAfterAnother, Row
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.generation.slot_rows import SlotRows
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.speculation.rows import DraftedCalls, many_rows
from luvc_export.serve.engine.image_cache import ImageCache
from luvc_export.serve.engine.jobs import Ended, Failed, Finished, Job, Piece, Progress
from luvc_export.serve.engine.prefill import Prefilled, Prefiller, prefix_length

#: Jobs that may overtake one because it needs another bucket loaded.
OVERTAKEN = 8


class Observer(Protocol):
    """Told what the engine does, for metrics."""

    def prefilled(self, model: str, timings: dict[str, Any], before: int, after: tuple[int, ...]) -> None:
        """A prompt was prefilled."""

    def stepped(self, model: str, rows: int, seconds: float, drafts: DraftCounts | None = None) -> None:
        """So many rows got a token, or with ``drafts`` several."""


@dataclass(eq=False)
class _Choice:
    """Which answer of which job a row is; ``sent`` log probabilities have been told."""

    progress: Progress
    number: int
    sequence: TokenSequence
    sent: int = 0


class _Group:
    """Rows of one plan about equally many pictures."""

    def __init__(self, loaded: LoadedPlan) -> None:
        self.loaded = loaded
        slots = isinstance(loaded.backend, RowBackend)
        self.rows = SlotRows(loaded.graphs) if slots else many_rows(loaded)
        self.owners: dict[Row, _Choice] = {}
        self.leaving: list[Row] = []

    @property
    def shares(self) -> bool:
        return not isinstance(self.rows, OneAfterAnother)

    def leave(self) -> None:
        """Let rows go that nobody waits for."""
        self.rows.change(self.leaving, [])
        self.leaving = []

    def prefill(self, job: Job, prefiller: Prefiller) -> tuple[Prefilled, dict[Row, TokenSequence]]:
        """Run a job's prompt: what it took, and a row for every choice, which has its first token or has failed."""
        slots = self.rows if isinstance(self.rows, SlotRows) else None
        budget = job.budget if slots is None else slots.budget(job.request, job.budget)
        rows: dict[Row, TokenSequence] = {}
        for number in range(job.choices):
            seed = job.options.seed
            options = job.options if seed is None else replace(job.options, seed=seed + number)
            sequence = TokenSequence(job.loaded.encoder, options, job.loaded.ends, budget, job.request.token_ids)
            rows[Row(sequence, request=job.request)] = sequence
        if slots is None:
            prefilled = prefiller(job.request)
        else:
            self.leave()
            prefilled = prefiller.into_slots(job.request, [*rows], slots)
        for row in rows:
            row.state, row.seen = prefilled.state, prefilled.lent
            row.take(RowStep(None, None, prefilled.logits))
        return prefilled, rows


class Engine:
    """Answers jobs.

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
        cache: ImageCache,
        rows: int,
        queue: int,
        observer: Observer,
        prepare: Callable[[], object] = lambda: None,
        broken: Callable[[], object] = lambda: None,
    ) -> None:
        self.cache, self._limit, self._queue, self._observer = cache, rows, queue, observer
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._groups: dict[tuple[int, int], _Group] = {}
        self._slots: dict[tuple[int, int], _Group] = {}
        self._prefillers: dict[int, tuple[LoadedPlan, Prefiller]] = {}
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

    def reserve(self) -> bool:
        """Take a place in the queue for a request that is being read; False where there is none."""
        with self._changed:
            if self._ending or len(self._waiting) + self._promised >= self._queue:
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
            self._waiting.append(job)
            self._changed.notify()

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
        return len(self._waiting) + self._promised

    @property
    def running(self) -> int:
        """Rows that grow."""
        return sum(len(group.owners) for group in list(self._groups.values()))

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
                while not self._waiting and not self._groups:
                    if self._ending:
                        return
                    self._changed.wait()
            self._drop_cancelled()
            job = self._next()
            if job is not None:
                self._start(job)
            for key, group in list(self._groups.items()):
                try:
                    self._step(group)
                    if not group.owners:
                        group.leave()
                        self._groups.pop(key, None)
                except Exception as error:
                    self._give_up(group, error)

    def _drop_cancelled(self) -> None:
        with self._changed:
            for job in [job for job in self._waiting if job.cancelled]:
                self._waiting.remove(job)
        for group in self._groups.values():
            for row in [row for row, choice in group.owners.items() if choice.progress.job.cancelled]:
                del group.owners[row]
                group.leaving.append(row)

    def _next(self) -> Job | None:
        """The first job that waits, if there is room for it.

        Where buckets of a plan take turns, jobs of one that is loaded overtake those that another must be loaded for,
        so that it is not loaded for each job anew; nobody is overtaken by more than ``OVERTAKEN``.
        """
        with self._changed:
            if not self._waiting:
                return None
            waiting = list(self._waiting)
            ready = (job.loaded.has_turn or job.overtaken >= OVERTAKEN for job in waiting)
            place = next((number for number, one in enumerate(ready) if one), 0)
            job, running = waiting[place], self.running
            if (running and running + job.choices > self._limit) or not self._takes(job):
                return None
            for before in waiting[:place]:
                before.overtaken += 1
            self._waiting.remove(job)
            return job

    @property
    def _busy(self) -> list[LoadedPlan]:
        """Plans that answers are being made with."""
        return [group.loaded for group in self._groups.values() if group.owners]

    def _takes(self, job: Job) -> bool:
        if job.loaded.waits_for(self._busy):
            return False
        for group in self._groups.values():
            if group.loaded is job.loaded:
                if not group.shares:
                    return False
                if isinstance(group.rows, SlotRows) and not group.rows.fits(job.request, job.choices):
                    return False
        return True

    def _start(self, job: Job) -> None:
        loaded, request, images = job.loaded, job.request, len(job.request.images)
        try:
            loaded.load(images > 0, self._busy)
            begin = perf_counter()
            group = self._group(job)
            if id(loaded) not in self._prefillers:
                self._prefillers[id(loaded)] = loaded, Prefiller(loaded, self.cache)
            prefilled, rows = group.prefill(job, self._prefillers[id(loaded)][1])
        except Exception as error:
            job.tell(Failed(error))
            return
        self._note("prefill")
        now, units = perf_counter(), images * loaded.plan.units
        visual = loaded.plan.cache_rows(images // loaded.plan.sharing.images, 0)
        timings = {
            "prepare_ms": job.prepared_ms,
            "queue_ms": 1000 * (begin - job.arrived) - job.prepared_ms,
            "vision_ms": prefilled.vision_ms,
            "prefix_ms": prefilled.prefix_ms,
            "question_ms": prefilled.question_ms,
            "ttft_ms": 1000 * (now - job.arrived),
            "cache": prefilled.found,
        }
        selection = selection_of(loaded, request, prefilled.merged_into, prefilled.kept)
        cached = {"none": 0, "image": units, "prefix": units + len(request.token_ids) - images - self._asked(job)}
        source = prefilled.found
        progress = Progress(job, source, now, job.choices, timings, visual, selection, cached[source])
        self._observer.prefilled(job.model, timings, units, visual)
        joining = []
        for number, (row, sequence) in enumerate(rows.items()):
            choice = _Choice(progress, number, sequence)
            if self._tell(row, choice):
                joining.append(row)
                group.owners[row] = choice
            else:
                group.leaving.append(row)
        try:
            group.rows.change(group.leaving, joining)
        except Exception as error:
            self._give_up(group, error)
            return
        group.leaving = []
        if group.owners:
            self._groups[self._key(job)] = group

    def _key(self, job: Job) -> tuple[int, int]:
        """Rows share a call with those about as many pictures; slots hold any number."""
        slots = isinstance(job.loaded.backend, RowBackend)
        return id(job.loaded), -1 if slots else len(job.request.images)

    def _group(self, job: Job) -> _Group:
        key = self._key(job)
        if key in self._groups:
            return self._groups[key]
        if key[1] >= 0:
            return _Group(job.loaded)
        if key not in self._slots:
            self._slots[key] = _Group(job.loaded)  # whose device memory stays
        return self._slots[key]

    def _asked(self, job: Job) -> int:
        """Text tokens after the cut of a prompt."""
        token = job.loaded.bundle.manifest.prompt.image_token_id
        cut = prefix_length(job.request, token, job.loaded.plan.grid)
        return 0 if cut is None else len(job.request.token_ids) - cut

    def _step(self, group: _Group) -> None:
        if group.leaving and group.owners:
            group.leave()
        if not group.owners:
            return
        begin = perf_counter()
        try:
            stepped = group.rows.step()
        except Exception as error:
            leaving = [*group.leaving, *group.owners]
            self._fail(group, error)
            group.leaving = leaving
            return
        self._note(f"step {len(stepped)}")
        model = next(iter(group.owners.values())).progress.job.model
        drafts = group.rows.counts if isinstance(group.rows, DraftedCalls) else None
        self._observer.stepped(model, len(stepped), perf_counter() - begin, drafts)
        for row in stepped:
            choice = group.owners.get(row)
            if choice is not None and not self._tell(row, choice):
                del group.owners[row]
                group.leaving.append(row)

    def _fail(self, group: _Group, error: Exception) -> None:
        for job in {id(choice.progress.job): choice.progress.job for choice in group.owners.values()}.values():
            job.tell(Failed(error))
        group.owners.clear()
        group.leaving = []

    def _give_up(self, group: _Group, error: Exception) -> None:
        """Rows could not be packed anew (memory, say): nobody knows what the group holds. Others go on."""
        self._fail(group, error)
        for groups in (self._groups, self._slots):
            for key in [key for key, one in groups.items() if one is group]:
                del groups[key]

    def _tell(self, row: Row, choice: _Choice) -> bool:
        """Tell a job about the tokens its row got; whether the row goes on. One that failed ends its job alone."""
        progress, sequence = choice.progress, choice.sequence
        job = progress.job
        if job.cancelled:
            return False
        if row.failed is not None:
            job.tell(Failed(row.failed))
            job.cancel()
            return False
        text = sequence.piece()
        at_end = sequence.ids[-1] in job.loaded.ends  # OpenAI's logprobs are those of the text
        logprobs = tuple(sequence.logprobs[choice.sent : len(sequence.logprobs) - at_end])
        if text or sequence.done:
            choice.sent = len(sequence.logprobs)
            job.tell(Piece(choice.number, text, logprobs))
        if not sequence.done:
            return True
        progress.completion_tokens += len(sequence.ids)
        progress.open_choices -= 1
        job.tell(Finished(choice.number, sequence.finish_reason, len(sequence.ids)))
        if not progress.open_choices:
            request, images = job.request, len(job.request.images)
            units = images * job.loaded.plan.units
            timings = {**progress.timings, "decode_ms": 1000 * (perf_counter() - progress.first_token)}
            ended = Ended(
                len(request.token_ids) - images,
                units,
                progress.visual_tokens,
                progress.completion_tokens,
                progress.cached_tokens,
                timings,
                progress.selection,
            )
            job.tell(ended)
        return False

    def _note(self, what: str) -> None:
        if self.trace is not None:
            self.trace.append(what)
