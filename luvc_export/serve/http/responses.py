"""The body of ``POST /v1/responses``: read into a chat request, which is checked and answered as any other.

Taken is what one turn about text and pictures needs. Nothing is stored: who goes on with a
conversation sends all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from luvc_export.runtime.prompt.request_fields import HARMLESS, REFUSED_INSIDE, RESPONSES_REFUSED
from luvc_export.serve.http.api_errors import ApiError, bad_request
from luvc_export.serve.http.fields import refuse, unknown, unsupported
from luvc_export.serve.http.json_bodies import decoded, require
from luvc_export.serve.http.protocol import ChatRequest, chat_request

#: Fields that both interfaces have, and samplers' of ours.
_SAME = (
    *("model", "stream", "temperature", "top_p", "top_logprobs", "seed", "stop", "top_k", "min_p", "luvc"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "mm_processor_kwargs"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "chat_template_kwargs"),
    *("min_tokens", "ignore_eos", "stop_token_ids", "include_stop_str_in_output"),
)
#: All that are read.
RESPONSES_READ = (*_SAME, "input", "instructions", "max_output_tokens", "text", "include")
_LOGPROBS = "message.output_text.logprobs"
_ROLES = ("user", "assistant", "system", "developer")


@dataclass(frozen=True)
class ResponseRequest:
    """A request.

    Args:
        chat: What is asked.
        echoed: Fields that the answer repeats.
        before: Messages of ``chat`` that are not of ``input``.
        ignored: Names of fields that nobody has heard of.
    """

    chat: ChatRequest
    echoed: dict[str, Any]
    before: int
    ignored: list[str]


def parse_response(body: bytes, strict: bool = False) -> ResponseRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    data = decoded(body)
    require(data, "input")
    if data.get("previous_response_id") is not None:
        message = "this server stores no answers: send the whole conversation as input"
        raise bad_request(message, param="previous_response_id", code="unsupported_parameter")
    refuse(data, RESPONSES_REFUSED)
    text = _typed(data, "text", dict, {})
    if text.get("verbosity") not in (None, "medium"):
        raise unsupported("text.verbosity")
    instructions = _typed(data, "instructions", str, None)
    before = [] if instructions is None else [{"role": "system", "content": instructions}]
    chat = {name: data.get(name) for name in _SAME}
    chat["messages"] = before + _messages(data["input"])
    chat["max_completion_tokens"] = data.get("max_output_tokens")
    chat["response_format"] = _format(text.get("format"))
    include = _typed(data, "include", list, [])
    chat["logprobs"] = True if _LOGPROBS in include or data.get("top_logprobs") is not None else None
    with renamed(len(before)):
        asked = chat_request(chat)
    echoed = {
        "instructions": instructions,
        "max_output_tokens": data.get("max_output_tokens"),
        "metadata": _typed(data, "metadata", dict, {}),
        "temperature": data.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}},
        "top_logprobs": data.get("top_logprobs") or 0,
        "top_p": data.get("top_p"),
    }
    if (user := _typed(data, "user", str, None)) is not None:
        echoed["user"] = user
    ignored = unknown(data, {*RESPONSES_READ, *RESPONSES_REFUSED, *HARMLESS}, strict)
    return ResponseRequest(asked, echoed, len(before), ignored)


class renamed:  # noqa: N801
    """Errors inside name the fields of this interface.

    Args:
        before: Messages that are not of ``input``.
    """

    def __init__(self, before: int) -> None:
        self._before = before

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ApiError) and error.param is not None:
            error.param = self._renamed(error.param)

    def _renamed(self, param: str) -> str:
        message = re.match(r"messages\[(\d+)\]", param)
        if message:
            number = int(message[1]) - self._before
            if number < 0:
                return "instructions"
            inside = (
                param[message.end() :].replace(".image_url.url", ".image_url").replace(".image_url.detail", ".detail")
            )
            return f"input[{number}]{inside}"
        head, dot, rest = param.partition(".")
        if head == "response_format":
            return f"text.format{dot}{rest}".replace(".json_schema", "")
        return {"messages": "input", "max_completion_tokens": "max_output_tokens"}.get(head, head) + dot + rest


def _typed(data: dict[str, Any], name: str, kind: type, missing: Any) -> Any:
    value = data.get(name)
    if value is None:
        return missing
    if not isinstance(value, kind):
        message = f"Expected `{kind.__name__}`, got `{type(value).__name__}`"
        raise bad_request(message, param=name, code="invalid_value")
    return value


def _messages(messages: Any) -> list[dict[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        raise bad_request("input is text or an array of messages", param="input", code="invalid_value")
    if not messages:
        raise bad_request("input is empty: send text or a message", param="input", code="invalid_value")
    return [_message(item, f"input[{number}]") for number, item in enumerate(messages)]


def _message(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise bad_request("a message is an object", param=where, code="invalid_value")
    if item.get("type", "message") != "message":
        raise bad_request("only messages are supported", param=f"{where}.type", code="unsupported_parameter")
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise bad_request(f"role is one of {', '.join(_ROLES)}", param=f"{where}.role", code="invalid_value")
    if isinstance(content, list):
        content = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    elif not isinstance(content, str):
        raise bad_request("content is text or an array of parts", param=f"{where}.content", code="invalid_value")
    return {"role": role, "content": content}


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


def _format(requested: Any) -> Any:
    if not isinstance(requested, dict) or requested.get("type") != "json_schema":
        return requested
    inner = {name: requested[name] for name in ("name", "schema", "strict", "description") if name in requested}
    return {"type": "json_schema", "json_schema": inner}
