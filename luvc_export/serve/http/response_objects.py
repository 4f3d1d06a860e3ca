"""Events of an answer -> the objects of OpenAI's responses, whole or as events in the official order."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luvc_export.serve.engine.jobs import Ended, Finished, Job, Piece
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.bodies import seen, survivors, token_logprobs
from luvc_export.serve.http.sending import sse


@dataclass
class ResponseObjects:
    """The objects of one request, of one answer.

    Args:
        model: Its name, as the client said it.
        job: What is answered.
        echoed: Fields of the request that the answer repeats.
        survivors: The last object says what became of the pictures' tokens.
    """

    model: str
    job: Job
    echoed: dict[str, Any]
    survivors: bool
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _sent: int = 0
    _pieces: list[Piece] = field(default_factory=list)
    _finish: Finished | None = None

    def __post_init__(self) -> None:
        self._item = f"msg_{self.id.removeprefix('resp_')}"

    def begin(self) -> bytes:
        """See ``sending.Form``."""
        body = self._object("in_progress")
        return (
            self._sse("response.created", response=body)
            + self._sse("response.in_progress", response=body)
            + self._sse("response.output_item.added", output_index=0, item=self._message("in_progress", []))
            + self._of_part("response.content_part.added", part=self._text("", []))
        )

    def event(self, event: Piece | Finished) -> bytes:
        """See ``sending.Form``."""
        if isinstance(event, Finished):
            self._finish = event
            return b""
        self._pieces.append(event)
        if not (event.text or event.logprobs):
            return b""
        return self._of_part("response.output_text.delta", delta=event.text, logprobs=self._logprobs([event]))

    def end(self, event: Ended) -> bytes:
        """See ``sending.Form``: text, part and item are done, then the whole."""
        assert self._finish is not None
        whole = self.whole(self._pieces, [self._finish], event)
        (item,) = whole["output"]
        (part,) = item["content"]
        return (
            self._of_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            + self._of_part("response.content_part.done", part=part)
            + self._sse("response.output_item.done", output_index=0, item=item)
            + self._sse(f"response.{whole['status']}", response=whole)
        )

    def failed(self, error: ApiError) -> bytes:
        """See ``sending.Form``."""
        details = {"code": "server_error", "message": error.message}
        return self._sse("response.failed", response={**self._object("failed"), "error": details})

    def whole(self, pieces: Sequence[Piece], finished: Sequence[Finished], ended: Ended) -> dict[str, Any]:
        """See ``sending.Form``."""
        (finish,) = finished
        status = "incomplete" if finish.reason == "length" else "completed"
        text = self._text("".join(piece.text for piece in pieces), self._logprobs(pieces))
        prompt = ended.text_tokens + ended.visual_units
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": ended.cached_tokens},
            "output_tokens": ended.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + ended.completion_tokens,
            "luvc": seen(ended, self.job),
        }
        whole = {
            **self._object(status),
            "output": [self._message(status, [text])],
            "usage": usage,
            "timings": ended.timings,
        }
        if status == "incomplete":
            whole["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            whole["completed_at"] = int(time.time())
        if self.survivors:
            whole["luvc"] = {"survivors": survivors(ended.selection, self.job)}
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
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
            "usage": None,
            **self.echoed,
            "temperature": options.temperature,
            "top_p": 1.0 if self.echoed["top_p"] is None else self.echoed["top_p"],
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _logprobs(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        if self.job.options.logprobs is None:
            return []
        return token_logprobs(self.job.loaded.encoder.tokenizer, [one for piece in pieces for one in piece.logprobs])

    def _of_part(self, kind: str, **fields: Any) -> bytes:
        return self._sse(kind, item_id=self._item, output_index=0, content_index=0, **fields)

    def _sse(self, kind: str, **fields: Any) -> bytes:
        self._sent += 1
        return sse({"type": kind, "sequence_number": self._sent - 1, **fields}, kind)
