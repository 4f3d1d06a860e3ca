"""The body of ``POST /v1/chat/completions``: what is understood. What else there is: ``fields``. Types are strict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct, field

from luvc_export.core.image_tokens import MOST
from luvc_export.runtime.prompt.request_fields import CHAT_REFUSED, HARMLESS
from luvc_export.serve.http.api_errors import bad_request
from luvc_export.serve.http.json_bodies import check_text, decoded, require, without_nulls
from luvc_export.serve.interfaces.fields import names_of, refuse, unknown, unknown_inside, unsupported
from luvc_export.serve.tools.fields import MOST_CALLS, Choice, ToolCall, Tools, refuse_kinds

_Text = Annotated[str, Meta(min_length=1)]
_Choices = Annotated[list[_Text], Meta(min_length=1, max_length=1024)]


class TextPart(Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """Text in which an earlier answer refused."""

    refusal: str


class ImageURL(Struct):
    """Where a picture is: ``data:``, ``file:`` or ``http(s):``. ``detail`` is taken and unused: see ``Extension``."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """A picture."""

    image_url: ImageURL | str


class VideoURL(Struct):
    """A film or animated picture, or ``data:video/jpeg;base64,FRAME,FRAME,...``, and its frames a second."""

    url: str
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None


class VideoPart(Struct, tag_field="type", tag="video_url"):
    """A video as one address."""

    video_url: VideoURL | str


class FramesPart(Struct, tag_field="type", tag="video"):
    """A video as its frames, an address each (Qwen's form)."""

    video: Annotated[list[str], Meta(min_length=1, max_length=512)]
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None


Part = TextPart | RefusalPart | ImagePart | VideoPart | FramesPart


class ChatMessage(Struct):
    """One turn; of an earlier answer ``refusal`` is the text where ``content`` is none.

    ``tool_calls`` and ``reasoning``, by either name, are an earlier answer's, ``tool_call_id`` is of a tool's result.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Meta(max_length=512)] | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MOST_CALLS)] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    function_call: Any = None
    audio: Any = None


class StreamOptions(Struct):
    """``include_usage`` sends one more event with the usage."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class JsonSchema(Struct):
    """``schema`` by its official wrapping."""

    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextFormat(Struct, tag_field="type", tag="text"):
    """Anything."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object; of ``schema`` where there is one (llama-server's)."""

    schema: dict[str, Any] | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    json_schema: JsonSchema


class RegexFormat(Struct, tag_field="type", tag="regex"):
    """Text that matches a regular expression (ours)."""

    regex: _Text


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """vLLM's: one of these."""

    json: dict[str, Any] | str | None = None
    regex: _Text | None = None
    choice: _Choices | None = None
    grammar: _Text | None = None
    json_object: bool | None = None


class Extension(Struct, forbid_unknown_fields=True):
    """Ours: ``survivors`` sends what became of the pictures' tokens; ``image_tokens`` is their ceiling for each."""

    survivors: bool = False
    image_tokens: Annotated[int, Meta(ge=1, le=MOST)] | None = None


class ProcessorOptions(Struct, forbid_unknown_fields=True):
    """vLLM's: ``max_pixels`` of a picture as the encoder sees it, which is a ceiling of visual tokens too.

    ``max_soft_tokens`` is Gemma 4's name for that ceiling, of which its processor takes these.
    """

    max_pixels: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    max_soft_tokens: Literal[70, 140, 280, 560, 1120] | None = None


_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class ChatRequest(Struct):
    """Fields that are read. Null is as good as absent, as in OpenAI's."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=512)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    min_p: _Fraction | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: _Text | None = None
    guided_choice: _Choices | None = None
    guided_grammar: _Text | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[Annotated[int, Meta(ge=0, le=2**31)]], Meta(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Tools | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    mm_processor_kwargs: ProcessorOptions = field(default_factory=ProcessorOptions)
    luvc: Extension = field(default_factory=Extension)


#: msgspec 0.22 builds what it knows of a type at its first use; two threads that do so at once end the process.
_BUILT = msgspec.json.Decoder(ChatRequest)

_PLACE = re.compile(r" - at `\$\.?(.*?)`$")


class Parsed(NamedTuple):
    """A request, and the names of fields that nobody has heard of."""

    chat: ChatRequest
    ignored: list[str]


#: What is read of a message (None) and of its parts by type, or comes with answers that clients send back.
_INSIDE: dict[str | None, tuple[str, ...]] = {
    None: (
        *names_of(ChatMessage),
        *("name", "annotations", "reasoning_details", "thinking_blocks", "parsed", "provider_specific_fields"),
        *("id", "type", "status"),
    ),
    **{
        str(part.__struct_config__.tag): ("type", *names_of(part), "cache_control", "annotations", "logprobs", "uuid")
        for part in (TextPart, RefusalPart, ImagePart, VideoPart, FramesPart)
    },
}


def parse(body: bytes, strict: bool = False) -> Parsed:
    """Read a body.

    Args:
        body: JSON.
        strict: Refuse every field that nobody has heard of.

    Raises:
        ApiError: It is no JSON, or a field is missing, of another type, out of range, refused or misspelt; ``param``
            names it.
    """
    data = decoded(body)
    require(data, "messages")
    refuse(data, CHAT_REFUSED)
    chat = chat_request(data)
    ignored = unknown(data, {*names_of(ChatRequest), *CHAT_REFUSED, *HARMLESS}, strict)
    return Parsed(chat, ignored + unknown_inside(data["messages"], _INSIDE, strict))


def chat_request(data: dict[str, Any], whole: dict[str, Any] | None = None) -> ChatRequest:
    """Read the fields of a request.

    Args:
        data: The fields.
        whole: All that was sent, where that is more: its texts are looked at.

    Raises:
        ApiError: See ``parse``.
    """
    refuse_kinds(data)
    known = without_nulls(data)
    try:
        request = msgspec.convert(known, ChatRequest, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        message = str(error)
        place = _PLACE.search(message)
        param = re.sub(r"\[\.\.\.\]", "", place[1]) if place else None
        if param and (missing := re.match(r"Object missing required field `(\w+)`", message)):
            param = f"{param}.{missing[1]}"
        raise bad_request(_PLACE.sub("", message) + _sent(known, param), param=param, code="invalid_value") from error
    _check(request, data if whole is None else whole)
    return request


def last_answer(chat: ChatRequest) -> str:
    """The text of the last message where it is an answer, which ``continue_final_message`` goes on with."""
    last = chat.messages[-1]
    whole = last.refusal if last.content is None else last.content
    texts = [part.text for part in whole if isinstance(part, TextPart)] if isinstance(whole, list) else [whole or ""]
    return "".join(texts) if last.role == "assistant" else ""


def _sent(fields: Mapping[str, Any], name: str | None) -> str:
    """The number or text that is out of range, where the field itself is one."""
    value = fields.get(name) if name else None
    return f"; sent: {str(value)[:40]}" if isinstance(value, str | int | float) else ""


def _check(request: ChatRequest, data: dict[str, Any]) -> None:
    """What types cannot say."""
    check_text(data)
    called: set[str | None] = set()
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        for name in ("function_call", "audio"):
            if getattr(message, name):
                raise unsupported(f"{where}.{name}")
        if message.tool_calls and message.role != "assistant":
            raise bad_request("only answers call tools", param=f"{where}.tool_calls", code="invalid_value")
        if message.role == "tool" and message.tool_call_id is None:
            needed = "a tool's result names its call: tool_call_id"
            raise bad_request(needed, param=f"{where}.tool_call_id", code="missing_required_parameter")
        if message.role == "tool" and message.tool_call_id not in called:
            needed = "no call before it has this id: send the answer that called, and its tool_calls, too"
            raise bad_request(needed, param=f"{where}.tool_call_id", code="invalid_value")
        called |= {call.id for call in message.tool_calls or ()}
        answered = message.refusal is not None or message.tool_calls
        if message.content is None and (message.role != "assistant" or not answered):
            raise bad_request("a message needs content: text, or parts", param=f"{where}.content", code="invalid_value")
        parts = message.content if isinstance(message.content, list) else []
        if message.role not in ("user", "tool") and any(not isinstance(part, TextPart | RefusalPart) for part in parts):
            raise bad_request(
                "only the user and tools show pictures: move them to a message of role user",
                param=f"{where}.content",
                code="invalid_value",
            )
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("top_logprobs needs logprobs to be true", param="top_logprobs", code="invalid_value")
    if request.stream_options is not None and not request.stream:
        raise bad_request("stream_options needs stream to be true", param="stream_options", code="invalid_value")
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        conflict = "max_tokens and max_completion_tokens say different numbers"
        raise bad_request(conflict, param="max_tokens", code="invalid_value")
    if (most := request.max_completion_tokens or request.max_tokens) and (request.min_tokens or 0) > most:
        raise bad_request("min_tokens is more than the most there may be", param="min_tokens", code="invalid_value")
    if request.continue_final_message and (request.add_generation_prompt or request.messages[-1].role != "assistant"):
        wrong = "there is no answer to go on with: the last message is the user's"
        if request.add_generation_prompt:
            wrong = "an answer that goes on has no new prompt: add_generation_prompt is false then"
        raise bad_request(wrong, param="continue_final_message", code="invalid_value")
    for token in request.logit_bias or {}:
        if not (token.isascii() and token.isdigit() and len(token) < 12):
            raise bad_request("logit_bias is by token id", param=f"logit_bias.{token[:20]}", code="invalid_value")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if any(not stop or len(stop) > 1000 for stop in stops):
        raise bad_request("stop strings have 1 to 1,000 characters", param="stop", code="invalid_value")
    if isinstance(request.response_format, JsonSchemaFormat) and request.response_format.json_schema.schema is None:
        where = "response_format.json_schema.schema"
        raise bad_request(
            "there is no schema: give one, or ask for json_object", param=where, code="missing_required_parameter"
        )
