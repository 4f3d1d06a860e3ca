"""One answer of a request as it grows: its text, its thought and its calls."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field
from typing import Literal

from luvc_export.runtime.generation.logits import TokenLogprob
from luvc_export.serve.engine.jobs import Finished, Piece
from luvc_export.serve.tools.letters import Delta
from luvc_export.serve.tools.splitting import AnswerReader, AnswerShape

_ALPHABET = string.ascii_letters + string.digits


@dataclass
class Call:
    """A call of a tool; ``arguments`` are JSON as a text."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    """Reads one answer.

    Args:
        shape: What it is made of; None where it is text.
    """

    shape: AnswerShape | None
    text: str = ""
    thought: str = ""
    #: Of its tokens, those of the thought.
    thought_tokens: int = 0
    calls: list[Call] = field(default_factory=list)
    #: Of its text.
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = None if self.shape is None else AnswerReader(self.shape)

    def push(self, piece: Piece) -> list[Delta]:
        """What the answer grew by."""
        if self._reader is None:
            deltas = [Delta("text", piece.text)] if piece.text or piece.logprobs else []
        else:
            thinking = self._reader.thinking
            deltas = self._reader.push(piece.text)
            if thinking or self._reader.thinking:
                self.thought_tokens = piece.tokens
        if any(delta.kind == "text" for delta in deltas):
            self.logprobs += piece.logprobs
        return self._noted(deltas)

    def finish(self) -> list[Delta]:
        """What was held back."""
        return [] if self._reader is None else self._noted(self._reader.finish())

    def reason(self, finished: Finished) -> Literal["stop", "length", "tool_calls"]:
        """Why it ended: calls are a reason of their own, but where the request names the tool."""
        calls = self.calls and self.shape is not None and not self.shape.named
        return "tool_calls" if calls and finished.reason == "stop" else finished.reason

    def _noted(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            if delta.kind == "text":
                self.text += delta.text
            elif delta.kind == "thought":
                self.thought += delta.text
            elif delta.kind == "call":
                self.calls.append(Call(self._id(), delta.text))
            else:
                self.calls[delta.call].arguments += delta.text
        return deltas

    def _id(self) -> str:
        form = None if self.shape is None else self.shape.calls
        if form is None or form.id_letters is None:
            return f"call_{secrets.token_hex(12)}"
        return "".join(secrets.choice(_ALPHABET) for _ in range(form.id_letters))
