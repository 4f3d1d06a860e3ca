"""Which jobs that wait may begin: clients take turns, one of several has its share of rows, one without finds one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from luvc_export.serve.engine.jobs import Job

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
