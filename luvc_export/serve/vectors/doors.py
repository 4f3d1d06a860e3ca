"""Paths of requests whose inputs are prompts that run once each: the one table that the server's routes are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from luvc_export.runtime.prompt.request_fields import Refusal
from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.jobs import Job
from luvc_export.serve.http.sending import Form, Mailbox
from luvc_export.serve.interfaces.answering import Interface
from luvc_export.serve.request_log import RequestRecord
from luvc_export.serve.tools.answer_plan import AnswerPlan
from luvc_export.serve.vectors.embeddings import (
    EMBEDDINGS_READ,
    EMBEDDINGS_REFUSED,
    POOLING_READ,
    parse_embedding,
    parse_pooling,
)
from luvc_export.serve.vectors.inputs import InputsRequest, plan_of, vectors_of
from luvc_export.serve.vectors.scores import RERANK_READ, SCORE_READ, SCORES_REFUSED, parse_rerank, parse_score


class Door(NamedTuple):
    """A path.

    Args:
        parse: Reads a body; told whether what nobody has heard of is refused.
        read: Names of all fields that are honoured.
        refused: Those that are refused.
    """

    parse: Callable[[bytes, bool], InputsRequest]
    read: tuple[str, ...]
    refused: Mapping[str, Refusal]


_RERANK = Door(parse_rerank, RERANK_READ, SCORES_REFUSED)
_SCORE = Door(parse_score, SCORE_READ, SCORES_REFUSED)
DOORS = {
    "/v1/embeddings": Door(parse_embedding, EMBEDDINGS_READ, EMBEDDINGS_REFUSED),
    "/pooling": Door(parse_pooling, POOLING_READ, EMBEDDINGS_REFUSED),
    "/v1/rerank": _RERANK,
    "/v1/score": _SCORE,
}
#: Other names of a path, as vLLM and Jina's clients have them.
ALIASES = {"/rerank": "/v1/rerank", "/v2/rerank": "/v1/rerank", "/score": "/v1/score"}


def interface(
    door: Door, follow: Callable[[Job], None], asker: Asker, strict: bool, record: RequestRecord
) -> Interface:
    """How requests of a path are answered; ``follow`` queues what follows in a request."""

    def read(body: bytes) -> InputsRequest:
        asked = door.parse(body, strict)
        record.ignored = list(asked.ignored)
        return asked

    def prepare(asked: InputsRequest, mailbox: Mailbox, plan: AnswerPlan) -> tuple[Form, bool]:
        return vectors_of(asked, asker, mailbox.tell, follow, record.begun, plan), False

    return Interface(read, lambda asked: asked.chat, partial(plan_of, asker=asker), prepare)
