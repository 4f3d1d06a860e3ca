"""What calls of a decoder took, by what they were for and by the engine that ran them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

#: A prompt or a part of one; a token of every row; several tokens of a row, all but one drafted; and the same of the
#: smaller model that drafts, whose steps take one token, or two after a draft that was accepted whole.
Part = Literal["prompt", "step", "verify", "draft prompt", "draft step"]


@dataclass(frozen=True)
class CallTimes:
    """Calls of one kind on one engine.

    Args:
        part: What they were for.
        engine: Back-end and arithmetic, such as ``cpu fp32``; of a back-end made of two, the one that ran them.
        calls: How many.
        seconds: All together, inputs and outputs of the engine included.
    """

    part: Part
    engine: str
    calls: int
    seconds: float

    @property
    def ms(self) -> float:
        """Of one call, the mean; NaN without calls."""
        return 1000 * self.seconds / self.calls if self.calls else float("nan")


class CallClock:
    """Adds up what calls took."""

    def __init__(self) -> None:
        self._spent: dict[tuple[Part, str], tuple[int, float]] = {}

    def add(self, part: Part, engine: str, seconds: float) -> None:
        """One more call."""
        calls, before = self._spent.get((part, engine), (0, 0.0))
        self._spent[part, engine] = calls + 1, before + seconds

    def read(self) -> list[CallTimes]:
        """All so far. Any thread may ask."""
        return [CallTimes(*key, *spent) for key, spent in list(self._spent.items())]


def merged(times: Iterable[CallTimes]) -> list[CallTimes]:
    """Calls of one kind on one engine as one, such as those of several plans; in the order in which kinds came."""
    spent: dict[tuple[Part, str], tuple[int, float]] = {}
    for one in times:
        calls, seconds = spent.get((one.part, one.engine), (0, 0.0))
        spent[one.part, one.engine] = calls + one.calls, seconds + one.seconds
    return [CallTimes(*key, *value) for key, value in spent.items()]


def drafting(times: Iterable[CallTimes]) -> list[CallTimes]:
    """Calls of a smaller model, by what they are for the larger one."""
    return merged(replace(one, part="draft prompt" if one.part == "prompt" else "draft step") for one in times)


def since(times: Iterable[CallTimes], before: Iterable[CallTimes]) -> list[CallTimes]:
    """What was added after ``before``; kinds of which nothing was are left out."""
    was = {(one.part, one.engine): one for one in before}
    grown = []
    for one in times:
        first = was.get((one.part, one.engine), CallTimes(one.part, one.engine, 0, 0.0))
        if one.calls > first.calls:
            grown.append(CallTimes(one.part, one.engine, one.calls - first.calls, one.seconds - first.seconds))
    return grown
