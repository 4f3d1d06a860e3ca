"""``POST /v1/completions``: prompts as they are, without a chat template; texts, or tokens that are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from tokenizers import Tokenizer

from luvc_export.errors import LuvcError
from luvc_export.runtime.generation.detokenise import text_of
from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.runtime.prompt.question import OpenedQuestion
from luvc_export.runtime.prompt.request_fields import COMPLETIONS_REFUSED, HARMLESS
from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.jobs import Ended, Event, Failed, Finished, Job, Piece
from luvc_export.serve.http.api_errors import bad_request, explained
from luvc_export.serve.http.json_bodies import decoded, require
from luvc_export.serve.http.sending import sse
from luvc_export.serve.interfaces.bodies import Chunks, token_bytes
from luvc_export.serve.interfaces.fields import refuse, unknown
from luvc_export.serve.interfaces.protocol import ChatRequest, chat_request
from luvc_export.serve.models import ServedModel
from luvc_export.serve.tools.answer_plan import AnswerPlan

#: Fields that chat completions have too.
_SAME = (
    *("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "response_format"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "min_tokens"),
    *("ignore_eos", "stop_token_ids", "include_stop_str_in_output", "echo"),
)
#: All that are read.
COMPLETIONS_READ = (*_SAME, "prompt", "logprobs", "add_special_tokens")
#: Answers of a request, prompts times ``n``; tokens where nobody says how many (OpenAI's); log probabilities.
MOST_ANSWERS, TOKENS, MOST_LOGPROBS = 32, 16, 5
Prompt = str | list[int]


@dataclass(frozen=True)
class CompletionRequest:
    """A request.

    Args:
        chat: Its options.
        prompts: What answers go on with.
        special: The tokenizer's own special tokens are added.
        ignored: Names of fields that nobody has heard of.
    """

    chat: ChatRequest
    prompts: tuple[Prompt, ...]
    special: bool
    ignored: list[str]


def parse_completion(body: bytes, strict: bool = False) -> CompletionRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    data = decoded(body)
    require(data, "prompt")
    refuse(data, COMPLETIONS_REFUSED)
    fields = {name: data[name] for name in _SAME if name in data}
    fields["max_tokens"] = TOKENS if data.get("max_tokens") is None else data["max_tokens"]
    logprobs = data.get("logprobs")
    if logprobs is not None:
        if not isinstance(logprobs, int) or isinstance(logprobs, bool) or not 0 <= logprobs <= MOST_LOGPROBS:
            message = f"logprobs is a number of tokens, 0 to {MOST_LOGPROBS}"
            raise bad_request(message, param="logprobs", code="invalid_value")
        fields |= {"logprobs": True, "top_logprobs": logprobs}
    chat = chat_request({**fields, "messages": [{"role": "user", "content": ""}]}, whole=data)
    prompts = _prompts(data["prompt"])
    if (answers := len(prompts) * (chat.n or 1)) > MOST_ANSWERS:
        message = f"there are {answers} answers, prompts times n; expected: at most {MOST_ANSWERS}"
        raise bad_request(message, param="prompt", code="invalid_value")
    if not isinstance(special := data.get("add_special_tokens"), bool | None):
        raise bad_request("add_special_tokens is true or false", param="add_special_tokens", code="invalid_value")
    ignored = unknown(data, {*COMPLETIONS_READ, *COMPLETIONS_REFUSED, *HARMLESS}, strict)
    return CompletionRequest(chat, prompts, special is not False, ignored)


def _prompts(prompt: Any) -> tuple[Prompt, ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if all(map(is_token, prompt)):
            return (prompt,)
        if all(isinstance(one, str) or (isinstance(one, list) and one and all(map(is_token, one))) for one in prompt):
            return tuple(prompt)
    raise bad_request("prompt is text, tokens, or a list of them", param="prompt", code="invalid_value")


def is_token(value: Any) -> bool:
    """A token id by its type."""
    return isinstance(value, int) and not isinstance(value, bool)


def jobs_of(
    asked: CompletionRequest, asker: Asker, tell: Callable[[Event], None], arrived: float, plan: AnswerPlan
) -> tuple[ServedModel, list[Job]]:
    """A job for each prompt; their events are those of one, choices counted through.

    Raises:
        ApiError: 400 for a prompt that is wrong or does not fit.
    """
    started, model = perf_counter(), asker.models.find(asked.chat.model)
    jobs: list[Job] = []
    together = _Together(tell, jobs, asked.chat.n or 1)
    for number, prompt in enumerate(asked.prompts):
        where = f"prompt[{number}]" if len(asked.prompts) > 1 else "prompt"
        ids = _token_ids(prompt, where, model, asked.special)
        question = OpenedQuestion((), (), adapter=model.adapter, token_ids=tuple(ids))
        jobs.append(asker.fitted(model, question, asked.chat, plan, together.of(number), arrived, started, where))
    return model, jobs


def _token_ids(prompt: Prompt, where: str, model: ServedModel, special: bool) -> list[int]:
    session = model.session
    encoder, vocab = session.encoder, session.bundle.manifest.decoder.vocab
    if isinstance(prompt, str):
        try:
            encoder.check_length(len(prompt))
        except LuvcError as error:
            raise explained(error, where) from error
        prompt = list(encoder.tokenizer.encode(prompt, add_special_tokens=special).ids)
    check_ids(prompt, where, vocab)
    if encoder.visual_ids & {*prompt}:
        message = "a prompt shows no picture, and has a picture's place: ask POST /v1/chat/completions about pictures"
        raise bad_request(message, param=where, code="unsupported_parameter")
    return prompt


def check_ids(ids: Sequence[int], where: str, vocab: int, decoded: Tokenizer | None = None) -> None:
    """Refuse ids beyond the vocabulary, or where ``decoded`` makes text of them, that it has no text of.

    Raises:
        ApiError: There are.
    """
    how = "POST /tokenize" if decoded is None else "POST /tokenize with add_special_tokens false"
    for place, token in enumerate(ids):
        expected = None if 0 <= token < vocab else f"0 to {vocab - 1}"
        if expected is None and decoded is not None and decoded.id_to_token(token) is None:
            expected = "one that its tokenizer has: the model's vocabulary is padded"
        if expected is not None:
            message = (
                f"there is no token {token}; expected: {expected}; fix: encode with this model's tokenizer ({how})"
            )
            raise bad_request(message, param=f"{where}[{place}]", code="invalid_value")


class _Together:
    """Tells of several jobs as of one. Used in the engine's thread."""

    def __init__(self, tell: Callable[[Event], None], jobs: Sequence[Job], each: int) -> None:
        self._tell, self._jobs, self._each, self._ended = tell, jobs, each, list[Ended]()

    def of(self, number: int) -> Callable[[Event], None]:
        """What the job of that number tells."""

        def tell(event: Event) -> None:
            if isinstance(event, Piece | Finished):
                self._tell(replace(event, choice=event.choice + number * self._each))
            elif isinstance(event, Failed):
                for job in self._jobs:
                    job.cancel()
                self._tell(event)
            else:
                self._ended.append(event)
                if len(self._ended) == len(self._jobs):
                    self._tell(_sum(self._ended))

        return tell


def _sum(ended: Sequence[Ended]) -> Ended:
    counts = {
        name: sum(getattr(one, name) for one in ended)
        for name in ("text_tokens", "visual_units", "completion_tokens", "cached_tokens")
    }
    return replace(ended[-1], **counts)


@dataclass
class TextCompletions(Chunks):
    """The objects of one request.

    Args:
        echoed: Texts that come before the answers of each prompt; none where nobody asked.
    """

    echoed: Sequence[str] = ()
    kinds = ("text_completion", "text_completion", "cmpl")
    _length: dict[int, int] = field(default_factory=dict)

    def event(self, event: Piece | Finished) -> bytes:
        """See ``sending.Form``."""
        if isinstance(event, Finished):
            return sse(self.chunk([self._choice(event.choice, "", (), event.reason)]))
        before = "" if event.choice in self._length else self._before(event.choice)
        if not (event.text or event.logprobs or before):
            return b""
        return sse(self.chunk([self._choice(event.choice, before + event.text, event.logprobs, None, len(before))]))

    def whole_choice(self, pieces: Sequence[Piece], finish: Finished) -> dict[str, Any]:
        """See ``Chunks``."""
        before = self._before(finish.choice)
        text, logprobs = "".join(piece.text for piece in pieces), [one for piece in pieces for one in piece.logprobs]
        return self._choice(finish.choice, before + text, logprobs, finish.reason, len(before))

    def _before(self, choice: int) -> str:
        return self.echoed[choice // self.job.choices] if self.echoed else ""

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], reason: str | None, before: int = 0
    ) -> dict[str, Any]:
        start = self._length.get(index, 0)
        self._length[index] = start + len(text)
        shown = None if self.job.options.logprobs is None else self._logprobs(logprobs, start + before)
        return {"index": index, "text": text, "logprobs": shown, "finish_reason": reason}

    def _logprobs(self, logprobs: Sequence[TokenLogprob], start: int) -> dict[str, Any]:
        """As OpenAI's older interface has them."""
        tokenizer, offsets = self.job.loaded.encoder.tokenizer, list[int]()

        def text(token: int) -> str:
            return token_bytes(tokenizer, token).decode("utf-8", "replace")

        for one in logprobs:
            offsets.append(start)
            start += len(text(one.token))
        return {
            "tokens": [text(one.token) for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [{text(token): logprob for token, logprob in one.top} for one in logprobs],
            "text_offset": offsets,
        }


def echoed(asked: CompletionRequest, jobs: Sequence[Job]) -> list[str]:
    """Texts of prompts, where they are asked for."""
    if not asked.chat.echo:
        return []
    return [
        prompt if isinstance(prompt, str) else text_of(job.loaded.encoder.tokenizer, prompt)
        for prompt, job in zip(asked.prompts, jobs, strict=True)
    ]
