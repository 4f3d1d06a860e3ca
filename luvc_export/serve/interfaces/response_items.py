"""Items of a response's ``input`` as messages of a chat: messages, calls and their results, thoughts.

What an answer consisted of becomes one message again: its thought, its text and its calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luvc_export.runtime.prompt.request_fields import REFUSED_INSIDE
from luvc_export.serve.http.api_errors import bad_request
from luvc_export.serve.interfaces.fields import refuse

_ROLES = ("user", "assistant", "system", "developer")
_KINDS = "message, function_call, function_call_output or reasoning"


#: Places of what is not of ``input``: before it, or of the responses it goes on with.
INSTRUCTIONS, EARLIER = -1, -2


@dataclass
class Places:
    """Where messages come from, and each call: items of ``input``; ``INSTRUCTIONS`` or ``EARLIER``, below 0."""

    messages: list[int] = field(default_factory=list)
    calls: dict[tuple[int, int], int] = field(default_factory=dict)


class Items:
    """Items that were read.

    Args:
        before: Messages that are not of ``input``.
    """

    def __init__(self, before: list[dict[str, Any]]) -> None:
        self.messages = list(before)
        self.places = Places([INSTRUCTIONS] * len(before))
        self._answer: dict[str, Any] | None = None

    def go_on(self, items: list[Any]) -> None:
        """Read items of earlier responses."""
        for item in items:
            self._item(item, EARLIER)

    def read(self, items: Any) -> list[Any]:
        """Read ``input``; its items.

        Raises:
            ApiError: It is none.
        """
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        if not isinstance(items, list):
            raise bad_request("input is text or an array of messages", param="input", code="invalid_value")
        if not items:
            raise bad_request("input is empty: send text or a message", param="input", code="invalid_value")
        for number, item in enumerate(items):
            self._item(item, number)
        return items

    def _item(self, item: Any, number: int) -> None:
        where = f"input[{number}]"
        if not isinstance(item, dict):
            raise bad_request("a message is an object", param=where, code="invalid_value")
        kind = item.get("type") or "message"
        if kind == "message":
            message = _message(item, where)
            before = self._answer if message["role"] == "assistant" else None
            if before is not None and before["content"] is None and "tool_calls" not in before:
                before["content"] = message["content"]
                return
            self._add(message, number)
            self._answer = message if message["role"] == "assistant" else None
        elif kind == "reasoning":
            self._add({"role": "assistant", "content": None, "reasoning": _thought(item)}, number)
            self._answer = self.messages[-1]
        elif kind == "function_call":
            if self._answer is None:
                self._answer = {"role": "assistant", "content": None}
                self._add(self._answer, number)
            calls = self._answer.setdefault("tool_calls", [])
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            self.places.calls[len(self.messages) - 1, len(calls)] = number
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
        elif kind == "function_call_output":
            output = _content(item.get("output"), f"{where}.output", "output")
            self._add({"role": "tool", "tool_call_id": item.get("call_id"), "content": output}, number)
            self._answer = None
        else:
            message_text = f"an item is of type {_KINDS}, not {str(kind)[:64]}"
            raise bad_request(message_text, param=f"{where}.type", code="unsupported_parameter")

    def _add(self, message: dict[str, Any], number: int) -> None:
        self.messages.append(message)
        self.places.messages.append(number)

    def whole(self) -> list[dict[str, Any]]:
        """The messages; a thought without an answer is left out."""
        for message in self.messages:
            if message["role"] == "assistant" and message["content"] is None and "tool_calls" not in message:
                message["content"] = ""
        return self.messages


def _thought(item: Mapping[str, Any]) -> str:
    """The text of a thought; a summary where that is all there is."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if text := "\n".join(text for text in texts if isinstance(text, str)):
            return text
    return ""


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise bad_request(f"role is one of {', '.join(_ROLES)}", param=f"{where}.role", code="invalid_value")
    return {"role": role, "content": _content(item.get("content"), f"{where}.content", "content")}


def _content(content: Any, where: str, name: str) -> str | list[dict[str, Any]]:
    if isinstance(content, list):
        return [_part(part, f"{where}[{number}]") for number, part in enumerate(content)]
    if not isinstance(content, str):
        raise bad_request(f"{name} is text or an array of parts", param=where, code="invalid_value")
    return content


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict):
        refuse(part, REFUSED_INSIDE, f"{where}.")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal")}
    if kind == "input_image":
        if part.get("image_url") is None:
            message = "send the picture as image_url, such as a data: address: this server stores no files"
            raise bad_request(message, param=f"{where}.image_url", code="missing_required_parameter")
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part.get("detail")}}
    if kind in ("video_url", "video"):  # ours, as in chat completions
        return dict(part)
    message = "a part is of type input_text, input_image or output_text"
    raise bad_request(message, param=f"{where}.type", code="invalid_value")


def tools_of(tools: Any) -> Any:
    """Tools as chat completions have them; what is no list of objects as it is."""
    if not isinstance(tools, list):
        return tools
    chat: list[Any] = []
    for tool in tools:
        if not isinstance(tool, dict) or tool.get("type") != "function":
            chat.append(tool)
            continue
        function = {name: tool[name] for name in ("name", "description", "parameters", "strict") if name in tool}
        chat.append({"type": "function", "function": function})
    return chat


def choice_of(choice: Any) -> Any:
    """The choice of a tool, the same."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("tools")
        tools = [choice_of(tool) for tool in allowed] if isinstance(allowed, list) else allowed
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": tools}}
    return choice
