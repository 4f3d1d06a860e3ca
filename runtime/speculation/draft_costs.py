"""What drafting with a smaller model costs, and what it brought of late: from bytes at first, then from the clock.

A step of a small model is calls more than bytes, and checking a token costs what this engine's products of few rows
cost. So steps of the larger model, with drafts and without, and drafted tokens are timed where they run, whatever is
spent around the graphs included, and answers after them go by that. What is learned belongs to the pair of models: an
answer begins with the acceptance of those before it, and the prompt is not even read for it where drafts would not save
as much as the reading takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from time import perf_counter

#: Of a kind of call, how many of the newest count. Their median does: one slow call moves nothing.
NEWEST = 16
#: Calls of a kind that are timed before their time is believed.
FEW = 3
#: Steps with drafts after which one without is timed again.
AGAIN = 64
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

    def __init__(self) -> None:
        self._figures: deque[float] = deque(maxlen=NEWEST)
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


class DraftCosts:
    """Of one pair of models, over all its answers.

    Args:
        guess: A step of the smaller model by one of the larger, before both were timed (``step_bytes.relative_cost``).
        clock: Seconds; None where nothing is to be learned: the guess stays, and each answer begins as the first did.
    """

    def __init__(self, guess: float, clock: Callable[[], float] | None = perf_counter) -> None:
        self.guess, self._clock = guess, clock
        #: Seconds of steps by the rows that shared them and the tokens drafted for the longest of those.
        self._steps: dict[int, dict[int, Recent]] = {}
        self._drafted, self._reading, self._lengths = Recent(), Recent(), Recent()
        self._since: dict[int, int] = {}
        self._looked_at, self._accepted = LOOKED_AT, LOOKED_AT * ACCEPTANCE
        self._misses = self._pause = 0

    def now(self) -> float:
        """Seconds of the clock, to take differences of."""
        return self._clock() if self._clock is not None else 0.0

    def stepped(self, rows: int, drafted: int, seconds: float) -> None:
        """A step of the larger model took so long, for so many rows and at most so many drafted tokens in one."""
        if self._clock is not None:
            self._steps.setdefault(rows, {}).setdefault(drafted, Recent()).add(seconds)
            self._since[rows] = self._since.get(rows, 0) + 1 if drafted else 0

    def drafted(self, tokens: int, seconds: float) -> None:
        """The smaller model took so long for so many tokens of one row."""
        if self._clock is not None and tokens:
            self._drafted.add(seconds / tokens)

    def read(self, seconds: float) -> None:
        """The smaller model took so long to read a prompt."""
        if self._clock is not None:
            self._reading.add(seconds)

    def ended(self, tokens: int) -> None:
        """An answer has so many tokens."""
        if self._clock is not None:
            self._lengths.add(tokens)

    def told(self, looked_at: int, accepted: int) -> None:
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
        plain = self._steps.get(rows, {}).get(0)
        return self._clock is not None and (plain is None or not plain.enough or self._since[rows] >= AGAIN)

    def relative(self, rows: int, drafted: int) -> tuple[float, float]:
        """What a drafted token costs each of so many rows, and what checking it does, both by a step without drafts.

        Drafts of several rows are made one after another, so a token for each delays all by as many steps of the
        smaller model.

        Args:
            rows: That share a step.
            drafted: Tokens of the draft that is thought of.
        """
        steps = self._steps.get(rows, {})
        plain = steps.get(0)
        if plain is None or not plain.enough:
            return self.guess * rows, CHECKING
        cost = rows * self._drafted.median / plain.median if self._drafted.enough else self.guess * rows
        timed = [tokens for tokens, recent in [*steps.items()] if tokens and recent.enough]
        if not timed:
            return cost, CHECKING
        nearest = min(timed, key=lambda tokens: abs(tokens - drafted))
        return cost, max(0.0, (steps[nearest].median / plain.median - 1) / nearest)

    def reading(self, rows: int) -> float:
        """What reading a prompt costs each of so many rows, in steps without drafts; 0.0 before two were timed.

        The first one may be slow for what is made at a first call.
        """
        plain = self._steps.get(rows, {}).get(0)
        return rows * self._reading.median / plain.median if len(self._reading) > 1 and plain is not None else 0.0

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
