"""The engine: it owns every call of its models. Jobs in, events out, one prompt or one step a call, no thread.

A prompt is followed by a step of everybody, so nobody who is being answered waits for more than one prompt between two
tokens, and whoever comes gets a first token after the prompts of those before and one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter

from luvc_export.runtime.engine.answers import Answers
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.engine.job import Answer, Began, Event, Job, Prefilled, Refused, Stepped
from luvc_export.runtime.engine.prefill import Prefiller
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import TokensPrompt

#: Jobs that may overtake one because it needs another bucket loaded.
OVERTAKEN = 8


class Engine:
    """Answers jobs. One thread calls ``step``.

    Args:
        cache: Of visual features and prefixes; None keeps nothing.
        answers: Answers that grow at once; None for any number, and more than one. One alone is answered with caches
            that can be continued (``Job.keeps``).
        together: Prompts that fit run in one call, before anybody takes a step; else one by one, with steps between.
    """

    def __init__(self, cache: FeatureCache | None = None, answers: int | None = None, together: bool = False) -> None:
        self.cache = FeatureCache(0) if cache is None else cache  # an empty one is falsy
        #: See ``answers``; whoever calls ``step`` may change it.
        self.limit = answers
        self._together = together
        self.waiting: deque[Job] = deque()
        self._open: dict[int, tuple[LoadedPlan, Answers]] = {}
        self._prefillers: dict[int, tuple[LoadedPlan, Prefiller]] = {}
        self._prompt_next = True
        self._broken: list[Event] = []

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.waiting.append(job)

    @property
    def running(self) -> int:
        """Answers that grow."""
        return sum(len(answers.growing) for _, answers in list(self._open.values()))

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing grows."""
        return not self.waiting and not self.running

    def step(self) -> list[Event]:
        """Run the next prompt, or a step of all answers; what came of it."""
        self._drop_cancelled()
        events: list[Event] = []
        if (self._prompt_next or self._together or not self.running) and (jobs := self._next()):
            self._prompt_next = False
            events = self._start(jobs)
            broken, self._broken = self._broken, []
            return [*events, *broken]
        self._prompt_next = True
        for loaded, answers in list(self._open.values()):
            if answers.growing:
                begin = perf_counter()
                try:
                    stepped, drafts = answers.step()
                except Exception as error:
                    self._break(loaded, answers, error)
                    continue
                events.append(Stepped(loaded, stepped, perf_counter() - begin, drafts))
                self._leave(loaded, answers, answers.ended)
        broken, self._broken = self._broken, []
        return [*events, *broken]

    def _drop_cancelled(self) -> None:
        for job in [job for job in self.waiting if job.cancelled]:
            self.waiting.remove(job)
        for loaded, answers in list(self._open.values()):
            gone = [slot for slot, one in answers.growing.items() if one.job is not None and one.job.cancelled]
            self._leave(loaded, answers, gone)

    def _leave(self, loaded: LoadedPlan, answers: Answers, slots: Sequence[int]) -> None:
        """Free slots; memory of host slots goes with the last."""
        try:
            answers.leave(slots)
        except Exception as error:
            self._break(loaded, answers, error)
            return
        if not answers.growing and not loaded.backend.capabilities.device_slots:
            self._open.pop(id(loaded), None)

    def _break(self, loaded: LoadedPlan, answers: Answers, error: Exception) -> None:
        """End all answers of a plan: nobody knows what its slots hold (memory ran out, say). Other plans go on."""
        left = [*answers.growing.values()]
        for answer in left:
            answer.failed = answer.failed or error
        answers.growing.clear()
        self._broken.append(Stepped(loaded, left, 0.0))
        self._open.pop(id(loaded), None)

    def _next(self) -> list[Job]:
        """The first job that waits, and those that run with it in one call; none where there is no room.

        Where buckets of a plan take turns, jobs of one that is loaded overtake those that another must be loaded for,
        so that it is not loaded for each job anew; nobody is overtaken by more than ``OVERTAKEN``.
        """
        waiting = list(self.waiting)
        ready = (job.loaded.is_resident or job.overtaken >= OVERTAKEN for job in waiting)
        place = next((number for number, one in enumerate(ready) if one), 0)
        if not waiting:
            return []
        job, running = waiting[place], self.running
        if running and self.limit is not None and running + job.answers_wanted > self.limit:
            return []
        if job.loaded.waits_for(self._busy):
            return []
        jobs = [job]
        if self._together:
            jobs += [one for one in waiting[place + 1 :] if one.loaded is job.loaded and _alike(one, job)]
        jobs = jobs[: self._room(jobs)]
        if jobs:
            for before in waiting[:place]:
                before.overtaken += 1
        for one in jobs:
            self.waiting.remove(one)
        return jobs

    @property
    def _busy(self) -> list[LoadedPlan]:
        """Plans that answers are being made with."""
        return [loaded for loaded, answers in self._open.values() if answers.growing]

    def _room(self, jobs: Sequence[Job]) -> int:
        """How many of ``jobs``, all of one plan, may join now. Empty slots take one whatever it is, or say why not."""
        loaded, answers = self._open.get(id(jobs[0].loaded), (None, None))
        if answers is None or loaded is None:
            loaded = jobs[0].loaded
            answers = self._answers(loaded)
        prompts = [_sized(job) for job in jobs for _ in range(job.answers_wanted)]
        room = answers.slots.room(prompts)
        if len(jobs) > 1:
            return room
        empty = not answers.growing
        if loaded.backend.capabilities.device_slots and not empty:  # beside others prompts join one by one
            rows = loaded.backend.capabilities.rows or len(prompts)
            return int(room > 0 and len(answers.growing) + len(prompts) <= rows)
        return int(empty or room >= len(prompts))

    def _answers(self, loaded: LoadedPlan) -> Answers:
        opened = self._open.get(id(loaded))
        if opened is None or opened[1].graphs is not loaded.graphs:  # none yet, or of a back-end that gave way
            drafting = None
            if loaded.speculation is not None:
                from luvc_export.runtime.engine.drafting import Drafting

                drafting = Drafting(loaded)
            self._open[id(loaded)] = loaded, Answers(loaded.graphs, self.limit != 1, drafting)
        return self._open[id(loaded)][1]

    def _start(self, jobs: Sequence[Job]) -> list[Event]:
        loaded = jobs[0].loaded
        try:
            loaded.load(any(len(job.request.images) for job in jobs), self._busy)
            answers = self._answers(loaded)
            if id(loaded) not in self._prefillers:
                self._prefillers[id(loaded)] = loaded, Prefiller(loaded, self.cache)
            prefiller = self._prefillers[id(loaded)][1]
            grown = [self._grown(job, answers) for job in jobs]
            if self._together:
                prefilled = prefiller.begin_together(answers, jobs, [one for (one,) in grown])
            else:
                prefilled = [prefiller.begin(answers, jobs[0], grown[0])]
        except Exception as error:
            return [Refused(job, error) for job in jobs]
        self._leave(loaded, answers, answers.ended)
        return [Began(job, one, own) for job, one, own in zip(jobs, prefilled, grown, strict=True)]

    def _grown(self, job: Job, answers: Answers) -> list[Answer]:
        room = answers.slots.answer_room(len(job.request.token_ids) - len(job.request.images))
        return [Answer(chooser, job, number) for number, chooser in enumerate(job.choosers(room))]


def began(events: Sequence[Event], job: Job) -> tuple[Prefilled, Sequence[Answer]]:
    """What the engine says of a job whose prompt has run: what that took, and the answers that grow.

    Raises:
        Exception: The prompt could not run, see ``Refused``.
    """
    for event in events:
        if isinstance(event, Refused) and event.job is job:
            raise event.error
        if isinstance(event, Began) and event.job is job:
            return event.prefilled, event.answers
    raise AssertionError("the job's prompt did not run")


def _alike(one: Job, other: Job) -> bool:
    """Whether prompts can run in one call: equally many images."""
    return len(one.request.images) == len(other.request.images)


def _sized(job: Job) -> TokensPrompt:
    """A job's prompt for counting room."""
    return TokensPrompt(job.request.token_ids, adapter=job.request.adapter, pictures=len(job.request.images))
