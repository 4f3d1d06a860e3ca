"""Questions put to an engine, and what comes of them."""

from __future__ import annotations

import queue
from typing import Any

from luvc_export.demo.questions import cases
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.session import Session
from luvc_export.serve.engine.jobs import Ended, Event, Failed, Job, Piece
from luvc_export.serve.engine.loop import Engine

CASES = list(cases("heldout", 14))
SECONDS = 60


class Nobody:
    """An observer."""

    def prefilled(self, *arguments: Any) -> None:
        pass

    def finished(self, *arguments: Any) -> None:
        """Nothing."""

    def stepped(self, *arguments: Any) -> None:
        pass


class Asked:
    """A job and its events."""

    def __init__(self, session: Session, number: int = 0, choices: int = 1, **options: Any) -> None:
        case = CASES[number]
        request = session.prepare(list(case.images), case.prompt)
        budget = session.token_limit(request, options.get("max_new_tokens"))
        self.events: queue.Queue[Event] = queue.Queue()
        self.job = Job(session.default, request, Sampling(**options), budget, choices, self.events.put)

    def wait(self, kind: type[Event]) -> list[Event]:
        """Events up to the first of a kind."""
        events = [self.events.get(timeout=SECONDS)]
        while not isinstance(events[-1], kind):
            if isinstance(events[-1], Failed):
                raise events[-1].error
            events.append(self.events.get(timeout=SECONDS))
        return events

    def text(self) -> str:
        return "".join(event.text for event in self.wait(Ended) if isinstance(event, Piece))


def submit(engine: Engine, *asked: Asked) -> None:
    for one in asked:
        assert engine.reserve()
        engine.submit(one.job)


def long(session: Session, number: int = 0, tokens: int = 40, **more: Any) -> Asked:
    """An answer that goes on: its end tokens are not to be chosen."""
    bias = dict.fromkeys(session.default.ends, -100.0)
    return Asked(session, number, max_new_tokens=tokens, logit_bias=bias, **more)
