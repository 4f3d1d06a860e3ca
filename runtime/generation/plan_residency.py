"""Back-ends that pack weights for each plan take turns: of a plan and its buckets, so many are loaded at a time.

Other plans of a session, such as those for other sizes of pictures, stay loaded until memory is short, or take turns as
well where a number is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from luvc_export.errors import UsageError
from luvc_export.runtime.model import Backend


class PlanResidency:
    """Which back-ends of a plan and its buckets are loaded; what answered least lately is unloaded first.

    Args:
        most: How many at a time, of all plans of a session; None for one of a plan and its buckets, and as many of the
            others as memory holds.

    Attributes:
        everywhere: Whether plans without buckets take turns too.

    Raises:
        UsageError: ``most`` is no number above 0.
    """

    def __init__(self, most: int | None = None) -> None:
        if most is not None and (type(most) is not int or most < 1):
            fix = "1 loads each when it is needed; as many as there are buckets and sizes, and the plan, load each once"
            what = "at least one plan of a bundle must be loaded to answer"
            raise UsageError(what, where="open_plans", got=repr(most), expected="1 or more", fix=fix)
        self.everywhere = most is not None
        self._most, self._changing = most or 1, threading.Lock()
        self._held: list[Backend] = []
        #: All that were loaded and pack weights of their own, what answered least lately first.
        self._loaded: list[Backend] = []

    def answers(self, backend: Backend) -> None:
        """Note that it is loaded and about to answer."""
        if backend.capabilities.packs_weights:
            with self._changing:
                self._loaded = [*(one for one in self._loaded if one is not backend), backend]

    def make_room(self, backend: object, busy: Collection[object] = ()) -> bool:
        """Unload what answered least lately, but ``backend`` and those of ``busy``; False where nothing is left."""
        with self._changing:
            idle = next((one for one in self._loaded if one is not backend and one not in busy), None)
            self._held, self._loaded = ([one for one in some if one is not idle] for some in (self._held, self._loaded))
        if idle is not None:
            idle.unload()
        return idle is not None

    def is_resident(self, backend: Backend) -> bool:
        """Whether it took a turn, and keeps it."""
        return backend in self._held

    def can_load(self, backend: Backend, busy: Collection[object]) -> bool:
        """Whether it may take a turn while those of ``busy`` keep theirs."""
        return self.is_resident(backend) or sum(one in busy for one in self._held) < self._most

    def load(self, backend: Backend, busy: Collection[object] = ()) -> None:
        """Unload what there is no room for beside it, those of ``busy`` last.

        Whoever is in the middle of an answer with what was unloaded loads it again.
        """
        with self._changing:
            held = [one for one in self._held if one is not backend]
            idle_first = sorted(held, key=lambda one: one in busy)
            over = idle_first[: max(0, len(held) + 1 - self._most)]
            self._held = [*(one for one in held if one not in over), backend]
        for one in over:
            one.unload()
