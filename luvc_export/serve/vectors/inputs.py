"""Requests of several inputs, each a prompt that runs once: read, made into jobs that run in turns, and answered.

A request of many inputs has one place in the queue: an input is queued when the one before it has its vector, so that
others' requests take turns with each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.core.tasks import Embedding
from luvc_export.errors import LuvcError, UsageError
from luvc_export.runtime.engine.embed import embedding_of
from luvc_export.runtime.generation.detokenise import text_of
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.prompt.request_fields import Refusal
from luvc_export.runtime.prompt.vector_chat import instruction_of, pair_marks, pair_parts, template_values
from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.jobs import Ended, Event, Failed, Finished, Job, Piece
from luvc_export.serve.http.api_errors import ApiError, bad_request, explained
from luvc_export.serve.interfaces.completions import check_ids
from luvc_export.serve.interfaces.protocol import ChatMessage, ChatRequest, ImagePart, ImageURL, Part, TextPart
from luvc_export.serve.models import ServedModel
from luvc_export.serve.tools.answer_plan import AnswerPlan

#: Of vLLM's and others', those that would change a vector, with the values that ask for nothing, and ours instead.
REFUSED: dict[str, Refusal] = {
    "add_special_tokens": ((True,), ""),
    "add_generation_prompt": ((), "the bundle, which says how its model was trained"),
    "continue_final_message": ((False,), ""),
    "chat_template": ((), "--chat-template"),
    "chat_template_kwargs": (({},), ""),
    "mm_processor_kwargs": (({},), "the image sizes of the bundle"),
    "truncate_prompt_tokens": ((), "--text-capacity of export"),
    "use_activation": ((True,), ""),
}
#: Inputs of a request, as OpenAI has it.
MOST_INPUTS = 2048
#: Bytes of an answer: of a JSON number of a vector 12, of base64 four thirds of 4.
MOST_BYTES, PER_NUMBER = 2**26, {False: 12, True: 16 / 3}


@dataclass
class Input:
    """One prompt of a request.

    Args:
        where: The field it is in.
        messages: A chat; of a pair, one message that is the document.
        query: Of a pair, the query.
        token_ids: Of the text, in the place of messages.
    """

    where: str
    messages: list[ChatMessage]
    query: list[Part] | None = None
    token_ids: list[int] | None = None

    def read(self, model: ServedModel) -> Input:
        """The same with the text of its token ids, special ones by their names.

        Raises:
            ApiError: 400 for an id that the model has not, or ids of no text.
        """
        if self.token_ids is None:
            return self
        tokenizer = model.session.encoder.tokenizer
        check_ids(self.token_ids, self.where, model.session.bundle.manifest.decoder.vocab, tokenizer)
        try:
            text = text_of(tokenizer, self.token_ids, special=True)
        except LuvcError as error:
            raise explained(error, self.where) from error
        return replace(self, messages=[ChatMessage("user", item_parts(text, self.where))])

    def chat(self, model: str | None, how: Embedding, instruction: str) -> ChatRequest:
        """The chat that the model reads."""
        messages = list(self.messages)
        if how.pair is not None and self.query is not None:
            marks = [TextPart(one) for one in pair_marks(how, instruction)]
            parts = pair_parts(marks, self.query, parts_of(messages[0]))
            messages = [ChatMessage("system", [TextPart(how.pair.system)]), ChatMessage("user", parts)]
        elif instruction and messages[0].role not in ("system", "developer"):
            messages.insert(0, ChatMessage("system", [TextPart(instruction)]))
        return ChatRequest(messages, model)


def parts_of(message: ChatMessage) -> list[Part]:
    """What a message holds."""
    content = message.content
    return [TextPart(content)] if isinstance(content, str) else list(content or ())


@dataclass(frozen=True)
class Answered:
    """What a request's inputs gave.

    Args:
        model: Name of the model.
        how: How it makes vectors.
        vectors: Of each input float32 [width], or [n, width].
        tokens: Of all prompts, without compression.
    """

    model: str
    how: Embedding
    vectors: list[NDArray[np.float32]]
    tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's count."""
        return {"prompt_tokens": self.tokens, "total_tokens": self.tokens}


@dataclass(frozen=True)
class InputsRequest:
    """A request.

    Args:
        model: Who is asked.
        inputs: Of which each is a job.
        tasks: A bundle's that it is for, the first of them named where it is of another.
        body: What is answered.
        check: Refuses what the bundle cannot do.
        size: Bytes of the answer, by the numbers of all vectors.
        instruction: In its own words, in the place of the bundle's default one.
        ignored: Names of fields that nobody has heard of.
        pool: Merge the vectors of images to one for so many.
    """

    model: str | None
    inputs: list[Input]
    tasks: tuple[str, ...]
    body: Callable[[Answered], dict[str, Any]]
    check: Callable[[Bundle], None] = lambda bundle: None
    size: Callable[[int], float] = lambda numbers: 0.0
    instruction: str | None = None
    ignored: Sequence[str] = ()
    pool: int = 1

    @property
    def chat(self) -> ChatRequest:
        """All of its parts, for who weighs what it takes to prepare them: a query's once for each of its documents."""
        parts: list[Part] = []
        for one in self.inputs:
            parts += one.query or ()
            parts += [part for message in one.messages for part in parts_of(message)]
        return ChatRequest([ChatMessage("user", parts)], self.model)


def check_count(count: int, where: str) -> None:
    """Refuse more inputs than a request may have.

    Raises:
        ApiError: There are.
    """
    if count > MOST_INPUTS:
        raise bad_request(f"there are {count} inputs; expected: at most {MOST_INPUTS}", where, "invalid_value")


def item_parts(sent: Any, where: str) -> list[Part]:
    """A query or a document: a text, Jina's ``{"text"}`` or ``{"image"}``, or vLLM's ``{"content": [parts]}``.

    Raises:
        ApiError: It is none of these, or empty.
    """
    wrong = f'{where} is a text, {{"text": ...}}, {{"image": ...}} or {{"content": [...]}}'
    if isinstance(sent, Mapping) and set(sent) == {"content"} and isinstance(sent["content"], list):
        known = {"text": "text", "image_url": "image_url", "image": "image"}
        listed = [one if isinstance(one, Mapping) else {} for one in sent["content"]]
        kinds = [known.get(str(one.get("type"))) for one in listed]
        if len(listed) > 512 or None in kinds:
            raise bad_request(f"{wrong}, parts of the types text and image_url", where, "invalid_value")
        fields = [{str(kind): one.get(str(kind))} for kind, one in zip(kinds, listed, strict=True)]
    else:
        fields = [{"text": sent} if isinstance(sent, str) else dict(sent) if isinstance(sent, Mapping) else {}]
    parts: list[Part] = []
    for one in fields:
        ((name, value),) = one.items() if len(one) == 1 else (("", None),)
        value = value.get("url") if name == "image_url" and isinstance(value, Mapping) else value
        if name not in ("text", "image", "image_url") or not isinstance(value, str):
            raise bad_request(wrong, where, "invalid_value")
        parts += [TextPart(value) if name == "text" else ImagePart(ImageURL(value))] if value else []
    if not parts:
        raise bad_request(f"{where} is empty; expected: a text of one letter at least", where, "invalid_value")
    return parts


def plan_of(asked: InputsRequest, asker: Asker) -> AnswerPlan:
    """What the template is told.

    Raises:
        ApiError: 404 for an unknown model, 400 for one of another task, or for what its bundle cannot do.
    """
    model = asker.models.find(asked.model)
    bundle = model.session.bundle
    if bundle.manifest.task not in asked.tasks:
        model.check_task(asked.tasks[0])
    try:
        asked.check(bundle)
    except UsageError as error:
        raise explained(error, str(error.where)) from error
    if not asker.token_ids and any(one.token_ids is not None for one in asked.inputs):
        message = "input is text: token ids of another tokenizer are another text here; fix: send strings (LangChain's"
        message += " OpenAIEmbeddings: check_embedding_ctx_length=False); or, where they are this model's, serve"
        raise bad_request(f"{message} --allow-token-ids", "input", "unsupported_parameter")
    pictures = sum(isinstance(part, ImagePart) for part in parts_of(asked.chat.messages[0]))
    if pictures > asker.max_images:
        message = f"there are {pictures} pictures, a query's once for each document"
        message += f"; expected: at most {asker.max_images} a request (--max-images)"
        raise bad_request(message, asked.inputs[0].where, "too_many_images")
    return AnswerPlan(Sampling(), values=template_values(embedding_of(bundle)))


def vectors_of(
    asked: InputsRequest,
    asker: Asker,
    tell: Callable[[Event], None],
    follow: Callable[[Job], None],
    arrived: float,
    plan: AnswerPlan,
) -> Vectors:
    """The objects of a request; ``follow`` queues the next of its jobs.

    Raises:
        ApiError: 400 for an input that is wrong or does not fit, or an answer that would be too large.
    """
    model, chain = asker.models.find(asked.model), _Chain(tell, follow)
    manifest = model.session.bundle.manifest
    how = embedding_of(model.session.bundle)
    instruction = instruction_of(how) if asked.instruction is None else asked.instruction
    vectors = len(asked.inputs)
    _check_size(asked.size(vectors * manifest.row_width))
    for one in (sent.read(model) for sent in asked.inputs):
        try:
            chain.jobs.append(asker.job(one.chat(asked.model, how, instruction), chain.tell, arrived, plan)[1])
        except ApiError as error:
            error.param = error.param if one.where == "messages" else one.where
            raise
        if how.pooling == "every":
            chain.jobs[-1].pool = asked.pool
            vectors += _vectors_of(how, chain.jobs[-1]) - 1
            _check_size(asked.size(vectors * manifest.row_width))
    for job in chain.jobs:
        job.beside = chain.jobs
    return Vectors(asked, model.name, how, chain.jobs)


def _check_size(size: float) -> None:
    """Refuse an answer of so many bytes, before its inputs run.

    Raises:
        ApiError: There are too many.
    """
    if size > MOST_BYTES:
        message = f"the answer would have {size / 2**20:.0f} MiB or more; expected: at most {MOST_BYTES // 2**20}; fix:"
        raise bad_request(f"{message} send fewer inputs, or encoding_format base64", "input", "invalid_value")


def _vectors_of(how: Embedding, job: Job) -> int:
    """Vectors of a job's tokens, those of padding counted too."""
    plan, images = job.loaded.plan, len(job.request.images)
    text = len(job.request.token_ids) - images
    return text + -(-plan.sharing.groups(images) * how.image_vectors(plan.keep[-1], plan.grid) // job.pool)


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

    asked: InputsRequest
    model: str
    how: Embedding
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
        """The answer's body."""
        vectors = [np.asarray(job.vector) for job in self.every]
        return self.asked.body(Answered(self.model, self.how, vectors, ended.text_tokens + ended.visual_units))
