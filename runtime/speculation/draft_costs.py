"""What drafting with a smaller model costs, and what it brings: from bytes at first, then from the clock.

A step of a small model is calls more than bytes, and checking a token costs what this engine's products of few rows
cost. So steps with drafts and drafted tokens are timed where they run, by the steps without drafts around them: a
machine's pace changes, and a quotient of neighbours keeps. Every few steps have no draft for that, fewer where drafts
save much. What such a stretch of steps saved, beside what was promised for it, corrects the next promises.

All of it belongs to the pair of models: an answer begins with the acceptance of those before it, and the prompt is not
even read for it where drafts would not save as much as the reading takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from time import perf_counter

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest
from luvc_export.core.precision import find

#: Of a kind of call, how many of the newest count. Their median does: one slow call moves nothing.
NEWEST = 16
#: Calls of a kind that are timed before their time is believed; steps without drafts that are the measure of others.
FEW = 3
#: Steps with drafts after which one without is timed, where drafts save little and where they save this much.
SOON, LATE, MUCH = 8, 32, 1.25
#: Answers without drafts where none would pay, at most; then one has a few.
LONGEST_PAUSE = 16
#: Of a token more to check, by a plain step, before it was timed: a step of few tokens reads weights once.
CHECKING = 0.02
#: What the first drafts are chosen by: as if so many tokens had been looked at, and this share of them accepted.
LOOKED_AT, ACCEPTANCE = 4.0, 0.75
#: Weight of a token's outcome in those after it, of all answers: about the last 100 tokens count.
FORGETTING = 0.99


class Recent:
    """The newest figures of a kind, and their median (the lower of two); NaN before the first."""

    def __init__(self, most: int = NEWEST) -> None:
        self._figures: deque[float] = deque(maxlen=most)
        self.median = math.nan

    def __len__(self) -> int:
        return len(self._figures)

    def add(self, figure: float) -> None:
        """One more; the oldest goes."""
        self._figures.append(figure)
        self.median = sorted(self._figures)[(len(self._figures) - 1) // 2]

    @property
    def enough(self) -> bool:
        """Whether the median is to be believed."""
        return len(self._figures) >= FEW


class _Shared:
    """Steps that so many rows share: times without drafts, the others as quotients by those."""

    def __init__(self) -> None:
        self.plain, self.cost, self.reading = Recent(FEW), Recent(), Recent()
        self.checks: dict[int, Recent] = {}
        #: Of drafts that are made for the step to come: seconds, and what was promised for each.
        self.making, self.promises = 0.0, list[float]()
        #: Since the last step without drafts: steps, tokens a row, seconds, and seconds times what was promised.
        self.steps, self.tokens, self.seconds, self.promised = 0, 0.0, 0.0, 0.0
        #: Steps with drafts before one without is timed again.
        self.stretch = SOON
        #: Of stretches of late: tokens that they gave, by what was promised for the time that they took.
        self.stretches = Recent()

    def plainly(self, seconds: float) -> None:
        """A step without drafts, which ends a stretch: its pace is that of the two around it."""
        before = self.plain.median if len(self.plain) else seconds
        self.plain.add(seconds)
        if self.steps:
            pace = (before + seconds) / 2
            self.stretch = LATE if self.tokens * pace > MUCH * self.seconds else SOON
            self.stretches.add(self.tokens * pace / self.promised)
        self.steps, self.tokens, self.seconds, self.promised = 0, 0.0, 0.0, 0.0

    def with_drafts(self, drafted: int, tokens: float, seconds: float) -> None:
        """A step with drafts."""
        if self.plain.enough:
            self.checks.setdefault(drafted, Recent()).add(seconds / self.plain.median)
        promise = sum(self.promises) / len(self.promises) if self.promises else 1.0
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens
        self.seconds += seconds + self.making
        self.promised += promise * (seconds + self.making)
        self.making = 0.0
        self.promises.clear()

    @property
    def realised_gain(self) -> float:
        """Time that drafts saved by the time that was predicted; 1.0 where the prediction held."""
        return self.stretches.median if self.stretches.enough else 1.0


class DraftCosts:
    """Of one pair of models, over all its answers.

    Args:
        guess: A step of the smaller model by one of the larger, before both were timed (``relative_cost``).
        clock: Seconds; None where nothing is to be learned: the guess stays, and each answer begins as the first did.
    """

    def __init__(self, guess: float, clock: Callable[[], float] | None = perf_counter) -> None:
        self.guess, self._clock = guess, clock
        self._shared: dict[int, _Shared] = {}
        self._lengths = Recent()
        self._looked_at, self._accepted = LOOKED_AT, LOOKED_AT * ACCEPTANCE
        self._misses = self._pause = 0

    def now(self) -> float:
        """Seconds of the clock, to take differences of."""
        return self._clock() if self._clock is not None else 0.0

    def stepped(self, rows: int, drafted: int, tokens: float, seconds: float) -> None:
        """A step of the larger model was run.

        Args:
            rows: That shared it.
            drafted: Tokens of the longest draft among them.
            tokens: That it gave, a row.
            seconds: That it took, those of making drafts left out.
        """
        if self._clock is not None and drafted:
            self._of(rows).with_drafts(drafted, tokens, seconds)
        elif self._clock is not None:
            self._of(rows).plainly(seconds)

    def drafted(self, rows: int, tokens: int, seconds: float) -> None:
        """The smaller model took so long for so many tokens of one of the rows."""
        if self._clock is not None and tokens:
            shared = self._of(rows)
            shared.making += seconds
            if shared.plain.enough:
                shared.cost.add(rows * seconds / tokens / shared.plain.median)

    def read(self, rows: int, seconds: float) -> None:
        """The smaller model took so long to read the prompt of one of the rows."""
        if self._clock is not None and self._of(rows).plain.enough:
            self._of(rows).reading.add(rows * seconds / self._of(rows).plain.median)

    def promise(self, rows: int, faster: float) -> None:
        """The next step is to have a draft of a row, which makes it so many times faster than one without."""
        if self._clock is not None:
            self._of(rows).promises.append(faster)

    def ended(self, tokens: int) -> None:
        """An answer has so many tokens."""
        if self._clock is not None:
            self._lengths.add(tokens)

    def record_outcome(self, looked_at: int, accepted: int) -> None:
        """Of so many tokens whose predecessors were accepted, so many were."""
        if self._clock is not None:
            kept = FORGETTING**looked_at
            self._looked_at = kept * self._looked_at + looked_at
            self._accepted = kept * self._accepted + accepted

    @property
    def acceptance(self) -> float:
        """Of a token whose predecessors were accepted, in answers of late."""
        return self._accepted / self._looked_at

    @property
    def usual(self) -> float:
        """Tokens of an answer, the median of late; infinity where none has ended."""
        return self._lengths.median if len(self._lengths) else math.inf

    def wants_plain(self, rows: int) -> bool:
        """Whether the next step of so many rows is to have no draft, to know what such a step takes."""
        shared = self._of(rows)
        return self._clock is not None and (not shared.plain.enough or shared.steps >= shared.stretch)

    def relative(self, rows: int, drafted: int) -> tuple[float, float]:
        """What a drafted token costs each of so many rows, and what checking it does, both by a step without drafts.

        Drafts of several rows are made one after another, so a token for each delays all by as many steps of the
        smaller model.

        Args:
            rows: That share a step.
            drafted: Tokens of the draft that is thought of.
        """
        shared = self._of(rows)
        cost = shared.cost.median if shared.cost.enough else self.guess * rows
        timed = [tokens for tokens, recent in [*shared.checks.items()] if recent.enough]
        if not timed:
            return cost, CHECKING
        nearest = min(timed, key=lambda tokens: abs(tokens - drafted))
        return cost, max(0.0, (shared.checks[nearest].median - 1) / nearest)

    def realised_gain(self, rows: int) -> float:
        """What drafts for so many rows saved of late by what was promised: what no single call's time says."""
        return self._of(rows).realised_gain

    def reading(self, rows: int) -> float:
        """What reading a prompt costs each of so many rows, in steps without drafts; 0.0 before two were timed.

        The first one may be slow for what is made at a first call.
        """
        reading = self._of(rows).reading
        return reading.median if len(reading) > 1 else 0.0

    def pays(self) -> None:
        """An answer begins to have drafts, because they pay."""
        self._misses = self._pause = 0

    def tries(self) -> bool:
        """Whether an answer whose drafts would not pay has some nevertheless, to learn of; asked once an answer."""
        if self._pause:
            self._pause -= 1
            return False
        if self._clock is not None:
            self._misses += 1
            self._pause = min(LONGEST_PAUSE, 2**self._misses)
        return True

    def _of(self, rows: int) -> _Shared:
        shared = self._shared.get(rows)
        if shared is None:
            shared = self._shared[rows] = _Shared()
        return shared


def weight_bytes(manifest: Manifest, bits: int, head: int | None = None) -> int:
    """Bytes of the matrices one decode step reads: every projection and the head; of the embedding it reads one row.

    ``bits`` are those of a weight as it is computed with: ONNX Runtime's CPU provider computes in fp32 whatever is
    stored. ``head`` are those of the head's, where it has others.
    """
    shape = manifest.decoder
    attention = 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim
    layer = attention + 3 * shape.hidden * shape.intermediate
    return (bits * shape.layers * layer + (head or bits) * shape.hidden * manifest.head_rows) // 8


def relative_cost(draft: Bundle, own: str, bundle: Bundle, plan: str) -> float:
    """A step of a smaller model by one of a larger, by the weights they read, on one engine.

    Args:
        draft: The smaller model's bundle.
        own: Its plan.
        bundle: The larger's.
        plan: Its plan.
    """
    sizes = []
    for one, name in ((draft, own), (bundle, plan)):
        quantised = one.entry(name).quantised
        sizes.append(weight_bytes(one.manifest, 32 if quantised is None else find(quantised.precision).weights))
    return sizes[0] / sizes[1]
