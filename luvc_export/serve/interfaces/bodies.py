"""Events of answers -> the objects of OpenAI's chat completions, whole or in chunks, and what others have of those."""

from __future__ import annotations

import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from tokenizers import Tokenizer

from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.runtime.generation.result import Selection, kept_of
from luvc_export.serve.engine.jobs import Ended, Finished, Job, Piece
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.sending import sse
from luvc_export.serve.interfaces.choices import Call, Choice
from luvc_export.serve.interfaces.protocol import ChatRequest
from luvc_export.serve.tools.letters import Delta
from luvc_export.version import VERSION


@dataclass
class Chunks(ABC):
    """What the objects of both kinds of completions are beside what a choice is. Follows ``sending.Form``.

    Args:
        chat: The request's options.
        name: The model's, where the request names none.
        jobs: What is answered.
    """

    chat: ChatRequest
    name: str
    jobs: Sequence[Job]
    #: Of whole objects and of chunks, and the head of ids.
    kinds: ClassVar[tuple[str, str, str]]

    def __post_init__(self) -> None:
        options = self.chat.stream_options
        self.job, self.with_usage = self.jobs[0], options is not None and options.include_usage
        self._id, self._created = f"{self.kinds[2]}-{secrets.token_hex(12)}", int(time.time())

    def begin(self) -> bytes:
        """See ``sending.Form``: choices open by themselves."""
        return b""

    def end(self, event: Ended) -> bytes:
        """See ``sending.Form``: usage, times and survivors where they were asked for."""
        costs = self._costs(event) if self.with_usage or self.chat.luvc.survivors else {}
        if costs and not self.with_usage:
            costs["usage"] = None
        return (sse({**self.chunk([]), **costs}) if costs else b"") + b"data: [DONE]\n\n"

    def failed(self, error: ApiError) -> bytes:
        """See ``sending.Form``."""
        return sse(error.body())

    def whole(self, pieces: Sequence[Piece], finished: Sequence[Finished], ended: Ended) -> dict[str, Any]:
        """The answers in one object."""
        choices = [
            self.whole_choice([piece for piece in pieces if piece.choice == finish.choice], finish)
            for finish in sorted(finished, key=lambda event: event.choice)
        ]
        return {**self._object(self.kinds[0]), "choices": choices, **self._costs(ended)}

    @abstractmethod
    def whole_choice(self, pieces: Sequence[Piece], finish: Finished) -> dict[str, Any]:
        """One of them, of what came of it."""

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A chunk of these."""
        usage = {"usage": None} if self.with_usage else {}
        return {**self._object(self.kinds[1]), "choices": choices, **usage}

    def thought_tokens(self) -> int | None:
        """Tokens of thoughts so far; None where there can be none."""
        return None

    def _object(self, kind: str) -> dict[str, Any]:
        named = {"model": self.chat.model or self.name, "system_fingerprint": f"luvc-{VERSION}"}
        return {"id": self._id, "object": kind, "created": self._created, **named}

    def _costs(self, event: Ended) -> dict[str, Any]:
        fields = {"usage": usage(event, self.job, self.thought_tokens()), "timings": event.timings}
        if self.chat.luvc.survivors:
            fields["luvc"] = {"survivors": survivors(event.selection, self.job)}
        return fields


@dataclass
class Completion(Chunks):
    """The objects of one request for a chat's answers.

    Args:
        echoed: Text that comes before each answer's own.
    """

    echoed: str = ""
    kinds = ("chat.completion", "chat.completion.chunk", "chatcmpl")
    _choices: dict[int, Choice] = field(default_factory=dict)

    def event(self, event: Piece | Finished) -> bytes:
        """See ``sending.Form``: the first chunk of a choice before anything of it, then more of it, or its end."""
        lines = b""
        if event.choice not in self._choices:
            self._choices[event.choice] = Choice(self.job.shape)
            lines = self._chunk_of(event.choice, {"role": "assistant", "content": self.echoed, "refusal": None})
        choice = self._choices[event.choice]
        if isinstance(event, Finished):
            lines += self._deltas(event.choice, choice.finish(), ())
            return lines + self._chunk_of(event.choice, {}, None, choice.reason(event))
        return lines + self._deltas(event.choice, choice.push(event), event.logprobs)

    def _deltas(self, index: int, deltas: Sequence[Delta], logprobs: Sequence[TokenLogprob]) -> bytes:
        """A chunk for each; log probabilities are those of the text."""
        lines = b""
        for delta in deltas:
            if delta.kind == "text":
                lines += self._chunk_of(index, {"content": delta.text}, self._logprobs(logprobs))
            elif delta.kind == "thought":
                lines += self._chunk_of(index, _thought(delta.text))
            else:
                function = {"arguments": delta.text}
                call: dict[str, Any] = {"index": delta.call, "function": function}
                if delta.kind == "call":
                    function |= {"name": delta.text, "arguments": ""}
                    call |= {"id": self._choices[index].calls[delta.call].id, "type": "function"}
                lines += self._chunk_of(index, {"tool_calls": [call]})
        return lines

    def whole_choice(self, pieces: Sequence[Piece], finish: Finished) -> dict[str, Any]:
        """See ``Chunks``."""
        choice = self._choices[finish.choice] = Choice(self.job.shape)
        for piece in pieces:
            choice.push(piece)
        choice.finish()
        text = self.echoed + choice.text
        message = {"role": "assistant", "content": text, "refusal": None, **_thought(choice.thought)}
        if choice.calls:
            message |= {"content": text or None, "tool_calls": [_call(call) for call in choice.calls]}
        logprobs, reason = self._logprobs(choice.logprobs), choice.reason(finish)
        return {"index": finish.choice, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def thought_tokens(self) -> int | None:
        """See ``Chunks``."""
        if self.job.shape is None or self.job.shape.thought is None:
            return None
        return sum(choice.thought_tokens for choice in self._choices.values())

    def _chunk_of(self, index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        return sse(self.chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]))

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self.job.options.logprobs is None:
            return None
        tokenizer = self.job.loaded.encoder.tokenizer
        return {"content": token_logprobs(tokenizer, tokens), "refusal": None}


def _thought(text: str) -> dict[str, Any]:
    """A thought under both names in use; none where there is none."""
    return {"reasoning": text, "reasoning_content": text} if text else {}


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def usage(
    event: Ended, job: Job, thoughts: int | None, before: str = "prompt", after: str = "completion", **cache: int
) -> dict[str, Any]:
    """What answers cost.

    Args:
        event: Has the counts.
        job: What was answered.
        thoughts: Tokens of thoughts; None where there can be none.
        before: The interface's word for what was asked.
        after: And for answers.
        cache: More of what it says about the prompt's cache.
    """
    prompt = event.text_tokens + event.visual_units
    counts = {
        f"{before}_tokens": prompt,
        f"{after}_tokens": event.completion_tokens,
        "total_tokens": prompt + event.completion_tokens,
        f"{before}_tokens_details": {"cached_tokens": event.cached_tokens, **cache},
        "luvc": seen(event, job),
    }
    return counts if thoughts is None else {**counts, f"{after}_tokens_details": {"reasoning_tokens": thoughts}}


def seen(event: Ended, job: Job) -> dict[str, Any]:
    """``usage.luvc``: visual tokens, and how much of each video was looked at where there are any."""
    videos = [taken.to_json() for taken in job.request.taken]
    return {"visual_tokens": visual_tokens(event), **({"videos": videos} if videos else {})}


def visual_tokens(event: Ended) -> dict[str, Any]:
    """Visual tokens before compression, in each layer's cache, and their mean."""
    layers = list(event.visual_tokens)
    return {"before": event.visual_units, "layers": layers, "mean": sum(layers) / len(layers)}


def survivors(selection: Selection, job: Job) -> list[dict[str, Any]]:
    """For each image the graphs saw: medium, canvas, grid, what merged, which tokens enter each pruning layer."""
    if selection.merged_into is None:
        return []
    plan, entries = job.loaded.plan, []
    media = media_of(job)
    for number, merged in enumerate(selection.merged_into):
        kept = {layer: kept_of(groups, number, plan).tolist() for layer, groups in selection.kept.items()}
        kept |= {layer: [] for layer, _, keep in plan.prunes if keep == 0}
        placement = selection.placements[number]
        entries.append(
            {
                "medium": media[number],
                "size": list(selection.size),
                "grid": list(selection.grid),
                "box": list(placement.box),
                "picture": list(placement.size),
                "merged_into": merged.tolist(),
                "kept": {str(layer): kept[layer] for layer in sorted(kept)},
            }
        )
    return entries


def media_of(job: Job) -> list[int]:
    """For each image which picture or video of the request it is of: pictures are cut to tiles, videos to moments."""
    request, clips = job.request, {clip.first: clip.images for clip in job.request.clips}
    wholes = {cut.tiles: cut.whole != "none" for cut in job.loaded.encoder.cuts}
    tiles, media = iter(request.tiles), list[int]()
    medium = 0
    while len(media) < len(request.images):
        count = clips.get(len(media), 0)
        if not count:
            rows, columns = next(tiles)
            count = rows * columns + wholes.get((rows, columns), False)
        media += [medium] * count
        medium += 1
    return media


def token_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their log probabilities and those of others in their place."""
    return [
        {
            **_token(tokenizer, one.token, one.logprob),
            "top_logprobs": [_token(tokenizer, token, logprob) for token, logprob in one.top],
        }
        for one in tokens
    ]


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    raw = token_bytes(tokenizer, token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as a letter: printable ones as themselves, the others from U+0100 on (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    return {chr(value): value for value in plain} | {chr(256 + at): value for at, value in enumerate(others)}


@lru_cache(maxsize=65536)
def _bytes(kind: str, letters: str) -> bytes:
    if kind == "ByteLevel" and all(letter in _alphabet() for letter in letters):
        return bytes(_alphabet()[letter] for letter in letters)
    if match := _BYTE.fullmatch(letters):
        return bytes([int(match[1], 16)])
    return letters.replace("\u2581", " ").encode("utf-8", "replace")


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """Bytes of ``token``; none for an id that the tokenizer does not have. Special tokens are their names."""
    letters = tokenizer.id_to_token(token)
    return b"" if letters is None else _bytes(_decoder(tokenizer), letters)


def _decoder(tokenizer: Tokenizer) -> str:
    """Whether the tokenizer writes bytes as letters."""
    decoder = tokenizer.decoder
    if decoder is None:
        return ""
    return "ByteLevel" if b"ByteLevel" in decoder.__getstate__() else "other"
