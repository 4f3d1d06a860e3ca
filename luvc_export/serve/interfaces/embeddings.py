"""``POST /v1/embeddings``: a vector for each text, or for one chat with pictures (vLLM's ``messages``).

A request of many inputs has one place in the queue: an input is queued when the one before it has its vector, so that
others' requests take turns with each.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from luvc_export.errors import LuvcError
from luvc_export.runtime.engine.embed import check_size, cut, embedding_of, instruction_of, template_values
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.prompt.request_fields import HARMLESS, Refusal
from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.jobs import Ended, Event, Failed, Finished, Job, Piece
from luvc_export.serve.http.api_errors import ApiError, bad_request, explained
from luvc_export.serve.http.json_bodies import decoded
from luvc_export.serve.interfaces.fields import refuse, unknown
from luvc_export.serve.interfaces.protocol import ChatMessage, ChatRequest, TextPart, chat_request, parse
from luvc_export.serve.tools.answer_plan import AnswerPlan

#: All that are read.
EMBEDDINGS_READ = ("model", "input", "messages", "encoding_format", "dimensions")
#: Of vLLM's and others', those that would change the vector, with the values that ask for nothing, and ours instead.
EMBEDDINGS_REFUSED: dict[str, Refusal] = {
    "add_special_tokens": ((True,), ""),
    "add_generation_prompt": ((), "the bundle, which says how its model was trained"),
    "continue_final_message": ((False,), ""),
    "chat_template": ((), "--chat-template"),
    "chat_template_kwargs": (({},), ""),
    "mm_processor_kwargs": (({},), "the image sizes of the bundle"),
    "truncate_prompt_tokens": ((), "--text-capacity of export"),
    "normalize": ((True,), ""),
    "use_activation": ((True,), ""),
    "embed_dtype": (("float32",), "encoding_format"),
    "endianness": (("native", "little"), "encoding_format"),
}
#: Inputs of a request, as OpenAI has it.
MOST_INPUTS = 2048


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request.

    Args:
        chats: One an input.
        texts: They were sent as ``input``.
        dimensions: Numbers of a vector; None for all.
        base64: Vectors are float32 numbers as bytes, in base64.
        ignored: Names of fields that nobody has heard of.
    """

    chats: tuple[ChatRequest, ...]
    texts: bool
    dimensions: int | None
    base64: bool
    ignored: list[str]

    def param(self, number: int) -> str:
        """The field that an input is in."""
        many = f"[{number}]" if len(self.chats) > 1 else ""
        return f"input{many}" if self.texts else "messages"


def parse_embedding(body: bytes, strict: bool = False) -> EmbeddingRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    data = {name: value for name, value in decoded(body).items() if value is not None}
    refuse(data, EMBEDDINGS_REFUSED)
    ignored = unknown(data, {*EMBEDDINGS_READ, *EMBEDDINGS_REFUSED, *HARMLESS}, strict)
    if ("input" in data) == ("messages" in data):
        raise bad_request("you must provide input, or messages", "input", "missing_required_parameter")
    form, size = data.get("encoding_format", "float"), data.get("dimensions")
    if form not in ("float", "base64"):
        raise bad_request("encoding_format is float or base64", "encoding_format", "invalid_value")
    if size is not None and (type(size) is not int or size < 1):
        raise bad_request("dimensions is a number of at least 1", "dimensions", "invalid_value")
    named = {"model": data["model"]} if "model" in data else {}
    if "messages" in data:
        chat, inside = parse(msgspec.json.encode({**named, "messages": data["messages"]}), strict)
        chats, ignored = [chat], ignored + inside
    else:
        inputs = [[{"role": "user", "content": text}] for text in _texts(data["input"])]
        first = chat_request({**named, "messages": inputs[0]}, whole=data)
        chats = [first, *(chat_request({**named, "messages": one}) for one in inputs[1:])]
    return EmbeddingRequest(tuple(chats), "input" in data, size, form == "base64", ignored)


def _texts(sent: Any) -> list[str]:
    texts = [sent] if isinstance(sent, str) else sent
    if isinstance(texts, list) and any(type(one) is int or isinstance(one, list) for one in texts):
        message = "input is text: token ids of another tokenizer are another text here; fix: send strings"
        message += " (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
        raise bad_request(message, "input", "unsupported_parameter")
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise bad_request("input is a text, or a list of texts", "input", "invalid_value")
    if not texts or not all(texts):
        raise bad_request("input is empty; expected: a text of one letter at least", "input", "invalid_value")
    if len(texts) > MOST_INPUTS:
        message = f"there are {len(texts)} inputs; expected: at most {MOST_INPUTS}"
        raise bad_request(message, "input", "invalid_value")
    return texts


def plan_of(asked: EmbeddingRequest, asker: Asker) -> AnswerPlan:
    """What the template is told.

    Raises:
        ApiError: 404 for an unknown model, 400 for one of another task, or a size that vectors are not cut to.
    """
    model = asker.models.find(asked.chats[0].model)
    model.check_task("embed")
    how = embedding_of(model.session.bundle)
    try:
        check_size(how, model.session.bundle, asked.dimensions)
    except LuvcError as error:
        raise explained(error, "dimensions") from error
    return AnswerPlan(Sampling(), values=template_values(how))


def vectors_of(
    asked: EmbeddingRequest,
    asker: Asker,
    tell: Callable[[Event], None],
    follow: Callable[[Job], None],
    arrived: float,
    plan: AnswerPlan,
) -> Vectors:
    """The objects of a request; ``follow`` queues the next of its jobs.

    Raises:
        ApiError: 400 for an input that is wrong or does not fit.
    """
    model, chain = asker.models.find(asked.chats[0].model), _Chain(tell, follow)
    system = instruction_of(embedding_of(model.session.bundle), None)
    for number, chat in enumerate(asked.chats):
        if system and chat.messages[0].role not in ("system", "developer"):
            chat.messages.insert(0, ChatMessage("system", [TextPart(system)]))
        try:
            chain.jobs.append(asker.job(chat, chain.tell, arrived, plan)[1])
        except ApiError as error:
            error.param = asked.param(number) if asked.texts else error.param
            raise
    for job in chain.jobs:
        job.beside = chain.jobs
    return Vectors(asked, model.name, chain.jobs)


@dataclass
class _Chain:
    """Jobs of one request: one is queued at a time, behind what came meanwhile. Used in the engine's thread."""

    _tell: Callable[[Event], None]
    _follow: Callable[[Job], None]
    jobs: list[Job] = field(default_factory=list)
    _ended: list[Ended] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        """What one of them tells: the client hears of the last, or of the first that failed."""
        if isinstance(event, Failed):
            self._tell(event)
        elif isinstance(event, Ended):
            self._ended.append(event)
            if len(self._ended) == len(self.jobs):
                counts = {
                    name: sum(getattr(one, name) for one in self._ended) for name in ("text_tokens", "visual_units")
                }
                self._tell(replace(event, **counts))
            elif not (after := self.jobs[len(self._ended)]).cancelled:
                after.client, after.arrived, after.prepared_ms = self.jobs[0].client, perf_counter(), 0.0
                self._follow(after)


@dataclass
class Vectors:
    """The object of one request. Follows ``sending.Form``, of which it is never a stream."""

    asked: EmbeddingRequest
    model: str
    every: Sequence[Job]

    @property
    def jobs(self) -> Sequence[Job]:
        """The one to queue; the others follow it."""
        return self.every[:1]

    def begin(self) -> bytes:
        """See ``Form``."""
        return b""

    def event(self, event: Piece | Finished) -> bytes:
        """See ``Form``."""
        return b""

    def end(self, event: Ended) -> bytes:
        """See ``Form``."""
        return b""

    def failed(self, error: ApiError) -> bytes:
        """See ``Form``."""
        return b""

    def whole(self, pieces: Sequence[Piece], finished: Sequence[Finished], ended: Ended) -> dict[str, Any]:
        """OpenAI's list of embeddings."""
        how = embedding_of(self.every[0].loaded.bundle)
        whole = np.stack([np.asarray(job.vector) for job in self.every])
        rows = np.ascontiguousarray(cut(how, whole, self.asked.dimensions), "<f4")
        shown = [base64.b64encode(row.tobytes()).decode() for row in rows] if self.asked.base64 else rows.tolist()
        data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(shown)]
        tokens = ended.text_tokens + ended.visual_units
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}
