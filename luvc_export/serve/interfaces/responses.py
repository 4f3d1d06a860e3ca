"""The body of ``POST /v1/responses``: read into a chat request, which is checked and answered as any other.

Taken is what one turn about text and pictures needs. Who goes on with a conversation sends all of it, or the id of its
last response (``response_store``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from luvc_export.runtime.prompt.request_fields import HARMLESS, RESPONSES_REFUSED
from luvc_export.serve.http.api_errors import ApiError, bad_request
from luvc_export.serve.http.json_bodies import decoded, require
from luvc_export.serve.interfaces.fields import refuse, unknown, unsupported
from luvc_export.serve.interfaces.protocol import ChatRequest, chat_request
from luvc_export.serve.interfaces.response_items import INSTRUCTIONS, Items, Places, choice_of, tools_of
from luvc_export.serve.interfaces.response_store import ResponseStore, Shelf

#: Fields that both interfaces have, and samplers' of ours.
_SAME = (
    *("model", "stream", "temperature", "top_p", "top_logprobs", "seed", "stop", "top_k", "min_p", "luvc"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "mm_processor_kwargs"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "chat_template_kwargs"),
    *("min_tokens", "ignore_eos", "stop_token_ids", "include_stop_str_in_output", "parallel_tool_calls"),
    "thinking_token_budget",
)
#: All that are read.
RESPONSES_READ = (
    *_SAME,
    "input",
    "instructions",
    "max_output_tokens",
    "text",
    "include",
    "tools",
    "tool_choice",
    "reasoning",
    "previous_response_id",
    "store",
)
_LOGPROBS = "message.output_text.logprobs"
_CLOSED = Shelf(ResponseStore(0))


@dataclass(frozen=True)
class ResponseRequest:
    """A request.

    Args:
        chat: What is asked.
        echoed: Fields that the answer repeats.
        places: Where messages of ``chat`` come from.
        ignored: Names of fields that nobody has heard of.
        items: Its ``input``.
        store: Whether it may be gone on with.
    """

    chat: ChatRequest
    echoed: dict[str, Any]
    places: Places
    ignored: list[str]
    items: list[Any]
    store: bool


def parse_response(body: bytes, strict: bool = False, shelf: Shelf = _CLOSED) -> ResponseRequest:
    """Read a body.

    Args:
        body: JSON.
        strict: See ``fields.unknown``.
        shelf: Responses that it may go on with.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    data = decoded(body)
    require(data, "input")
    refuse(data, RESPONSES_REFUSED)
    text = _typed(data, "text", dict, {})
    if text.get("verbosity") not in (None, "medium"):
        raise unsupported("text.verbosity")
    instructions = _typed(data, "instructions", str, None)
    reasoning = _typed(data, "reasoning", dict, {})
    if reasoning.get("summary") not in (None, "auto"):
        raise unsupported("reasoning.summary")
    items = Items([] if instructions is None else [{"role": "system", "content": instructions}])
    if (previous := _typed(data, "previous_response_id", str, None)) is not None:
        items.go_on(shelf.conversation(previous))
    own, store = items.read(data["input"]), _typed(data, "store", bool, True)
    chat = {name: data.get(name) for name in _SAME}
    chat["messages"] = items.whole()
    chat["reasoning_effort"] = reasoning.get("effort")
    chat["tools"], chat["tool_choice"] = tools_of(data.get("tools")), choice_of(data.get("tool_choice"))
    chat["max_completion_tokens"] = data.get("max_output_tokens")
    chat["response_format"] = _format(text.get("format"))
    include = _typed(data, "include", list, [])
    chat["logprobs"] = True if _LOGPROBS in include or data.get("top_logprobs") is not None else None
    with renamed(items.places):
        asked = chat_request(chat)
    echoed = {
        "instructions": instructions,
        "max_output_tokens": data.get("max_output_tokens"),
        "metadata": _typed(data, "metadata", dict, {}),
        "previous_response_id": previous,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "parallel_tool_calls": data.get("parallel_tool_calls") is not False,
        "tool_choice": data.get("tool_choice") or "auto",
        "tools": data.get("tools") or [],
        "temperature": data.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}},
        "top_logprobs": data.get("top_logprobs") or 0,
        "top_p": data.get("top_p"),
    }
    if (user := _typed(data, "user", str, None)) is not None:
        echoed["user"] = user
    ignored = unknown(data, {*RESPONSES_READ, *RESPONSES_REFUSED, *HARMLESS}, strict)
    return ResponseRequest(asked, echoed, items.places, ignored, own, store)


class renamed:  # noqa: N801
    """Errors inside name the fields of this interface.

    Args:
        places: Where messages come from.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ApiError) and error.param is not None:
            error.param = self._renamed(error.param)

    def _renamed(self, param: str) -> str:
        call = re.match(r"messages\[(\d+)\]\.tool_calls\[(\d+)\](?:\.function)?", param)
        number = self._places.calls.get((int(call[1]), int(call[2]))) if call else None
        if call and number is not None and number >= 0:
            inside = re.sub(r"^\.id$", ".call_id", param[call.end() :])
            return f"input[{number}]{inside}"
        message = re.match(r"messages\[(\d+)\]", param)
        if message and int(message[1]) < len(self._places.messages):
            number = self._places.messages[int(message[1])]
            if number < 0:
                return "instructions" if number == INSTRUCTIONS else "previous_response_id"
            inside = param[message.end() :].replace(".image_url.url", ".image_url")
            inside = inside.replace(".image_url.detail", ".detail").replace(".tool_call_id", ".call_id")
            inside = inside.removesuffix(".tool_calls")
            return f"input[{number}]{inside}"
        if param.startswith("tools["):
            return param.replace("].function", "]")
        if param.startswith("tool_choice."):
            return "tool_choice"
        head, dot, rest = param.partition(".")
        if head == "response_format":
            return f"text.format{dot}{rest}".replace(".json_schema", "")
        if head == "reasoning_effort":
            return "reasoning.effort"
        return {"messages": "input", "max_completion_tokens": "max_output_tokens"}.get(head, head) + dot + rest


def _typed(data: dict[str, Any], name: str, kind: type, missing: Any) -> Any:
    value = data.get(name)
    if value is None:
        return missing
    if not isinstance(value, kind):
        message = f"Expected `{kind.__name__}`, got `{type(value).__name__}`"
        raise bad_request(message, param=name, code="invalid_value")
    return value


def _format(requested: Any) -> Any:
    if not isinstance(requested, dict) or requested.get("type") != "json_schema":
        return requested
    inner = {name: requested[name] for name in ("name", "schema", "strict", "description") if name in requested}
    return {"type": "json_schema", "json_schema": inner}
