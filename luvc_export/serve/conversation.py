"""Messages of a chat as templates take them: parts by kind, calls with arguments, results as a stranger's text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.serve.interfaces.protocol import ChatMessage, RefusalPart, TextPart
from luvc_export.serve.tools.fields import arguments_of

#: The letter an id is made of where templates want so many.
_PLAIN_ID = re.compile(r"[A-Za-z0-9]*")


def written(
    message: ChatMessage,
    content: str | list[dict[str, Any]],
    where: str,
    encoder: PromptEncoder,
    names: dict[str, str],
    id_letters: int | None,
) -> dict[str, Any]:
    """A message for the template.

    Args:
        message: As it was sent.
        content: Its text, or its parts with places for pictures.
        where: Its place, for errors.
        encoder: Breaks marks in what tools say.
        names: Of functions by the id of their call, which grows.
        id_letters: Letters of a call's id, where the template wants so many.

    Raises:
        ApiError: A call's arguments are no JSON object.
    """
    role = "system" if message.role == "developer" else message.role
    calls = message.tool_calls or []
    if isinstance(content, str) and role != "tool" and not calls:
        content = [{"type": "text", "text": content}]
    one: dict[str, Any] = {"role": role, "content": encoder.broken(content) if role == "tool" else content}
    if role == "tool":
        one["tool_call_id"] = _id(message.tool_call_id or "", id_letters)
        if (name := names.get(message.tool_call_id or "")) is not None:
            one["name"] = name
    if calls:
        names.update({call.id: call.function.name for call in calls if call.id})
        one["tool_calls"] = [
            {
                "id": _id(call.id or f"{where}{number}", id_letters),
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": encoder.broken(arguments_of(call, f"{where}.tool_calls[{number}]")),
                },
            }
            for number, call in enumerate(calls)
        ]
    thought = message.reasoning_content or message.reasoning
    if thought and role == "assistant":
        one |= {"reasoning_content": thought, "reasoning": thought}
    return one


def _id(sent: str, letters: int | None) -> str:
    """An id as it was sent, or one of as many letters as the template wants, the same for the same."""
    if letters is None or (len(sent) == letters and _PLAIN_ID.fullmatch(sent)):
        return sent
    return hashlib.sha256(sent.encode()).hexdigest()[:letters]


def letters_of(message: ChatMessage) -> int:
    """Letters of a message's texts."""
    content = message.content or ""
    own = sum(len(call.function.arguments) for call in message.tool_calls or ())
    own += len(message.reasoning_content or message.reasoning or "")
    if isinstance(content, str):
        return own + len(content)
    return own + sum(len(part.text if isinstance(part, TextPart) else part.refusal)
                     for part in content if isinstance(part, TextPart | RefusalPart))  # fmt: skip


def value_letters(value: Any) -> int:
    """Letters of all texts in plain data."""
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            count += len(one)
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
    return count
