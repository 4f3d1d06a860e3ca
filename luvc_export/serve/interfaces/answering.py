"""What of a request each interface reads, and the objects it answers with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from luvc_export.serve.asking import Asker
from luvc_export.serve.http.sending import Form, Mailbox
from luvc_export.serve.interfaces.bodies import Completion
from luvc_export.serve.interfaces.completions import (
    CompletionRequest,
    TextCompletions,
    echoed,
    jobs_of,
    parse_completion,
)
from luvc_export.serve.interfaces.protocol import ChatRequest, last_answer, parse
from luvc_export.serve.interfaces.response_objects import ResponseObjects
from luvc_export.serve.interfaces.response_store import Shelf
from luvc_export.serve.interfaces.responses import ResponseRequest, parse_response, renamed
from luvc_export.serve.request_log import RequestRecord
from luvc_export.serve.tools.answer_plan import AnswerPlan


@dataclass(frozen=True)
class Interface:
    """How one request is answered; each of these runs in a thread that prepares.

    Args:
        read: The body.
        chat_of: Of what was read, the options of a chat.
        plan_of: How its answers are chosen, a grammar compiled.
        prepare: Its objects, and whether they are streamed.
    """

    read: Callable[[bytes], Any]
    chat_of: Callable[[Any], ChatRequest]
    plan_of: Callable[[Any], AnswerPlan]
    prepare: Callable[[Any, Mailbox, AnswerPlan], tuple[Form, bool]]


def chat_completions(asker: Asker, strict: bool, record: RequestRecord) -> Interface:
    """Of ``POST /v1/chat/completions``."""

    def read(body: bytes) -> ChatRequest:
        chat, record.ignored = parse(body, strict)
        return chat

    def prepare(chat: ChatRequest, mailbox: Mailbox, plan: AnswerPlan) -> tuple[Form, bool]:
        record.unheld = list(plan.unheld)
        model, job = asker.job(chat, mailbox.tell, record.begun, plan)
        return Completion(chat, model.name, (job,), last_answer(chat) if chat.echo else ""), bool(chat.stream)

    return Interface(read, lambda chat: chat, asker.plan, prepare)


def completions(asker: Asker, strict: bool, record: RequestRecord) -> Interface:
    """Of ``POST /v1/completions``."""

    def read(body: bytes) -> CompletionRequest:
        asked = parse_completion(body, strict)
        record.ignored = asked.ignored
        return asked

    def prepare(asked: CompletionRequest, mailbox: Mailbox, plan: AnswerPlan) -> tuple[Form, bool]:
        model, jobs = jobs_of(asked, asker, mailbox.tell, record.begun, plan)
        return TextCompletions(asked.chat, model.name, jobs, echoed(asked, jobs)), bool(asked.chat.stream)

    plain = partial(asker.plan, plain=True)
    return Interface(read, lambda asked: asked.chat, lambda asked: plain(asked.chat), prepare)


def responses(shelf: Shelf, asker: Asker, strict: bool, record: RequestRecord) -> Interface:
    """Of ``POST /v1/responses``; those on ``shelf`` may be gone on with."""

    def read(body: bytes) -> ResponseRequest:
        asked = parse_response(body, strict, shelf)
        record.ignored = asked.ignored
        return asked

    def plan_of(asked: ResponseRequest) -> AnswerPlan:
        with renamed(asked.places):
            return asker.plan(asked.chat)

    def prepare(asked: ResponseRequest, mailbox: Mailbox, plan: AnswerPlan) -> tuple[Form, bool]:
        chat, record.unheld = asked.chat, list(plan.unheld)
        with renamed(asked.places):
            model, job = asker.job(chat, mailbox.tell, record.begun, plan)
        form = ResponseObjects(chat.model or model.name, job, asked.echoed, chat.luvc.survivors)
        previous = asked.echoed["previous_response_id"]
        asked.echoed["store"] = asked.store and shelf.begin(form.id, previous, asked.items)
        if asked.echoed["store"]:
            form.on_end = partial(shelf.end, form.id)
        return form, bool(chat.stream)

    return Interface(read, lambda asked: asked.chat, plan_of, prepare)
