"""Events of an answer -> the objects of OpenAI's responses, whole or as events in the official order."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.serve.engine.jobs import Ended, Finished, Job, Piece
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.sending import sse
from luvc_export.serve.interfaces.bodies import survivors, token_logprobs, usage
from luvc_export.serve.interfaces.choices import Choice
from luvc_export.serve.tools.letters import Delta


@dataclass
class Item:
    """An item of the output: a thought, a message, or the call of that number."""

    kind: str
    id: str
    call: int = 0
    text: str = ""


@dataclass
class ResponseObjects:
    """The objects of one request, of one answer.

    Args:
        model: Its name, as the client said it.
        job: What is answered.
        echoed: Fields of the request that the answer repeats.
        survivors: The last object says what became of the pictures' tokens.
        on_end: Called with the whole before it is sent.
    """

    model: str
    job: Job
    echoed: dict[str, Any]
    survivors: bool
    on_end: Callable[[dict[str, Any]], object] = lambda whole: None
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _sent: int = 0
    _items: list[Item] = field(default_factory=list)
    _finish: Finished | None = None

    def __post_init__(self) -> None:
        self._choice = Choice(self.job.shape)

    @property
    def jobs(self) -> Sequence[Job]:
        """See ``sending.Form``."""
        return (self.job,)

    def begin(self) -> bytes:
        """See ``sending.Form``. An answer that can only be a message opens with it."""
        body = self._object("in_progress")
        lines = self._sse("response.created", response=body) + self._sse("response.in_progress", response=body)
        return lines + (self._opened("message") if self.job.shape is None else b"")

    def event(self, event: Piece | Finished) -> bytes:
        """See ``sending.Form``."""
        if isinstance(event, Finished):
            self._finish = event
            return self._grown(self._choice.finish(), ())
        return self._grown(self._choice.push(event), event.logprobs)

    def _grown(self, deltas: Sequence[Delta], logprobs: Sequence[TokenLogprob]) -> bytes:
        lines = b""
        for delta in deltas:
            kind = {"text": "message", "thought": "reasoning"}.get(delta.kind, "function_call")
            last = self._items[-1] if self._items else None
            if last is None or last.kind != kind or (delta.kind == "call"):
                lines += self._closed("completed") + self._opened(kind, delta.call)
            item = self._items[-1]
            item.text += "" if delta.kind == "call" else delta.text
            if kind == "message":
                shown = self._logprobs(logprobs)
                lines += self._of_part("response.output_text.delta", delta=delta.text, logprobs=shown)
            elif kind == "reasoning":
                lines += self._of_part("response.reasoning_text.delta", delta=delta.text)
            elif delta.kind == "arguments":
                lines += self._of_item("response.function_call_arguments.delta", delta=delta.text)
        return lines

    def _opened(self, kind: str, call: int = 0) -> bytes:
        """Begin an item."""
        head = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        number = f"_{len(self._items)}" if self._items else ""
        self._items.append(Item(kind, f"{head}_{self.id.removeprefix('resp_')}{number}", call))
        item = self._items[-1]
        shown = {**self._item(item, "in_progress"), **({} if kind == "function_call" else {"content": []})}
        if kind == "function_call":
            shown["arguments"] = ""
        lines = self._sse("response.output_item.added", output_index=len(self._items) - 1, item=shown)
        if kind == "message":
            lines += self._of_part("response.content_part.added", part=self._text("", []))
        return lines

    def _closed(self, status: str) -> bytes:
        """End the item that grows, if one does."""
        if not self._items:
            return b""
        item = self._items[-1]
        whole = self._item(item, status)
        if item.kind == "message":
            (part,) = whole["content"]
            lines = self._of_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            lines += self._of_part("response.content_part.done", part=part)
        elif item.kind == "reasoning":
            lines = self._of_part("response.reasoning_text.done", text=item.text)
        else:
            call = self._choice.calls[item.call]
            more = {"name": call.name, "arguments": call.arguments}
            lines = self._of_item("response.function_call_arguments.done", **more)
        return lines + self._sse("response.output_item.done", output_index=len(self._items) - 1, item=whole)

    def end(self, event: Ended) -> bytes:
        """See ``sending.Form``: text, part and item are done, then the whole."""
        opened = b"" if self._items else self._opened("message")
        whole = self._whole(event)
        return opened + self._closed(whole["status"]) + self._sse(f"response.{whole['status']}", response=whole)

    def failed(self, error: ApiError) -> bytes:
        """See ``sending.Form``."""
        details = {"code": "server_error", "message": error.message}
        return self._sse("response.failed", response={**self._object("failed"), "error": details})

    def whole(self, pieces: Sequence[Piece], finished: Sequence[Finished], ended: Ended) -> dict[str, Any]:
        """See ``sending.Form``."""
        for piece in pieces:
            self.event(piece)
        for finish in finished:
            self.event(finish)
        if not self._items:
            self._opened("message")
        return self._whole(ended)

    def _whole(self, ended: Ended) -> dict[str, Any]:
        assert self._finish is not None
        status = "incomplete" if self._finish.reason == "length" else "completed"
        counts = usage(ended, self.job, self._choice.thought_tokens, "input", "output", cache_write_tokens=0)
        *before, last = self._items
        items = [*(self._item(item, "completed") for item in before), self._item(last, status)]
        whole = {**self._object(status), "output": items, "usage": counts, "timings": ended.timings}
        if status == "incomplete":
            whole["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            whole["completed_at"] = int(time.time())
        if self.survivors:
            whole["luvc"] = {"survivors": survivors(ended.selection, self.job)}
        self.on_end(whole)
        return whole

    def _object(self, status: str) -> dict[str, Any]:
        options = self.job.options
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": [],
            "truncation": "disabled",
            "usage": None,
            **self.echoed,
            "temperature": options.temperature,
            "top_p": 1.0 if self.echoed["top_p"] is None else self.echoed["top_p"],
        }

    def _item(self, item: Item, status: str) -> dict[str, Any]:
        named = {"id": item.id, "type": item.kind, "status": status}
        if item.kind == "message":
            logprobs = self._logprobs(self._choice.logprobs)
            return {**named, "role": "assistant", "content": [self._text(item.text, logprobs)]}
        if item.kind == "reasoning":
            return {**named, "summary": [], "content": [{"type": "reasoning_text", "text": item.text}]}
        call = self._choice.calls[item.call]
        return {**named, "call_id": call.id, "name": call.name, "arguments": call.arguments}

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        if self.job.options.logprobs is None:
            return []
        return token_logprobs(self.job.loaded.encoder.tokenizer, logprobs)

    def _of_part(self, kind: str, **fields: Any) -> bytes:
        return self._of_item(kind, content_index=0, **fields)

    def _of_item(self, kind: str, **fields: Any) -> bytes:
        return self._sse(kind, item_id=self._items[-1].id, output_index=len(self._items) - 1, **fields)

    def _sse(self, kind: str, **fields: Any) -> bytes:
        self._sent += 1
        return sse({"type": kind, "sequence_number": self._sent - 1, **fields}, kind)
