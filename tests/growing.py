"""Answers of a session that join and leave slots by hand, where a test wants to say when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luvc_export.runtime.engine.answers import Answers
from luvc_export.runtime.engine.host_slots import rolled_back
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.engine.prefill import prompt_of
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.sequence import TokenSequence
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import RowsState, RowsStep


class Growing:
    """Answers that leave as they end."""

    def __init__(self, session: Session) -> None:
        self.session, self.answers = session, Answers(session.default.graphs, several=True)

    @property
    def rows(self) -> list[Answer]:
        """Those that grow."""
        return [*self.answers.growing.values()]

    def room(self, request: Request) -> int:
        """How many prompts like this one may join now."""
        return self.answers.slots.room([prompt_of(request, self.session.default.encode_images(*request.shown()))])

    def join(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Answer]:
        """Let answers of so many tokens begin, their prompts in one call."""
        session, loaded = self.session, self.session.default
        rows = [
            Answer(TokenSequence(session.encoder, Sampling(), loaded.ends, length, request.token_ids))
            for request, length in zip(requests, lengths, strict=True)
        ]
        prompts = [prompt_of(request, loaded.encode_images(*request.shown())) for request in requests]
        for joined, row in zip(self.answers.slots.join(prompts), rows, strict=True):
            self.answers.begin(joined.slot, row, joined.logits)
        self.answers.leave(self.answers.ended)
        return rows

    def step(self) -> list[Answer]:
        """A token for each; those that got one."""
        stepped, _ = self.answers.step() if self.rows else ([], None)
        self.answers.leave(self.answers.ended)
        return stepped

    def drop(self, row: Answer) -> None:
        """Let one go before its end."""
        self.answers.leave([slot for slot, one in self.answers.growing.items() if one is row])

    def slot(self, row: Answer) -> int:
        """Which slot one has."""
        return next(slot for slot, one in self.answers.growing.items() if one is row)


def stepped(graphs: Graphs, tokens: Sequence[int], state: RowsState) -> RowsStep:
    """A token of every row of a cache, as slots take it."""
    logits, cache = graphs.verify([[token] for token in tokens], state)
    after = rolled_back(state, cache, 1, np.ones(len(tokens), np.int64))
    left = graphs.windows.left(after.cache, after.text_mask, after.orders)
    return RowsStep(logits[:, -1], replace(after, cache=left), {})
