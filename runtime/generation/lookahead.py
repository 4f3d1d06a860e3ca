"""The tokens after the first: drawn on the host from logits, or chosen by the decoder itself, one step ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from luvc_export.runtime.backend import Chooser, Chosen
from luvc_export.runtime.generation.sequence import Line
from luvc_export.runtime.state import State

if TYPE_CHECKING:
    from luvc_export.runtime.session import Session


class Following(Protocol):
    """Adds tokens to a line. ``state`` holds all of them but the last."""

    state: State

    def advance(self, line: Line) -> None:
        """Add one token.

        Raises:
            CheckFailed: The logits are not finite.
        """


def following(session: Session, line: Line, state: State, budget: int) -> Following:
    """What goes on after the first token of ``line``: the device chooses where it can and drawing needs no logits."""
    backend = session.backend
    if line.greedy and isinstance(backend, Chooser) and backend.chooses:
        return Ahead(session, line.ids[-1], state, budget - 1)
    return Drawn(session, state)


class Drawn:
    """Logits come to the host at every step, which chooses."""

    def __init__(self, session: Session, state: State) -> None:
        self._session, self.state = session, state

    def advance(self, line: Line) -> None:
        """See ``Following``."""
        step = self._session.run(line.ids[-1:], state=self.state)
        self.state = step.state
        line.choose(step.logits[0, -1])


class Ahead:
    """The device chooses; while the host takes a token, the step that goes on from it runs already.

    The step that is under way when an answer ends was for nothing. It wrote behind ``state``, which never notices.

    Args:
        session: Runs the graphs.
        first: The token to go on from.
        state: Before it.
        steps: Tokens at most.
    """

    def __init__(self, session: Session, first: int, state: State, steps: int) -> None:
        self._session, self._first, self._left = session, first, steps
        self.state = state
        self._under_way: tuple[Chosen, State] | None = None

    def advance(self, line: Line) -> None:
        """See ``Following``."""
        chosen, self.state = self._under_way or self._start(self._first)
        self._under_way = self._start(chosen) if self._left else None
        line.take(*chosen.read())

    def _start(self, token: int | Chosen) -> tuple[Chosen, State]:
        self._left -= 1
        return self._session.choose(token, self.state)
