"""Fields of requests about tools, as OpenAI's chat completions have them, and what of them is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from luvc_export.serve.http.api_errors import bad_request
from luvc_export.serve.tools.grammar import Calls
from luvc_export.serve.tools.letters import DEEPEST

#: Tools of a request, letters of a name, calls in a message.
MOST_TOOLS, MOST_CALLS = 128, 128
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
#: Kinds of tools that others have, and what to do.
_HOSTED = "this server calls nothing by itself: offer a tool of type function, and call it yourself"
_REFUSED = {"custom": "its calls are no JSON: offer a tool of type function with one argument that is a text"}


class Function(Struct):
    """What can be called; ``parameters`` is the JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool."""

    function: Function
    type: Literal["function"] = "function"


class FunctionCall(Struct):
    """A call in an earlier answer; ``arguments`` are JSON as a text."""

    name: Name
    arguments: str = ""


class ToolCall(Struct):
    """The same with its id."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class FunctionName(Struct):
    """A function's name."""

    name: Name


class NamedTool(Struct):
    """The one tool to call."""

    function: FunctionName
    type: Literal["function"] = "function"


class Allowed(Struct):
    """Which tools may be called, and whether one must."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=MOST_TOOLS)]


class ToolChoice(Struct):
    """A tool to call, or those that may be."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: Allowed | None = None


Tools = Annotated[list[Tool], Meta(max_length=MOST_TOOLS)]
Choice = Literal["none", "auto", "required"] | ToolChoice


def refuse_kinds(data: Mapping[str, Any]) -> None:
    """Refuse kinds of tools that are not called here, and too many, before any is read.

    Raises:
        ApiError: One is.
    """
    tools = data.get("tools")
    if not isinstance(tools, list):
        return
    if len(tools) > MOST_TOOLS:
        message = f"there are {len(tools):,} tools; expected: at most {MOST_TOOLS}; fix: offer those that may be needed"
        raise bad_request(message, param="tools", code="invalid_value")
    for index, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if isinstance(kind, str) and kind != "function":
            message = f"a tool of type {kind[:64]} is not supported: {_REFUSED.get(kind, _HOSTED)}"
            raise bad_request(message, param=f"tools[{index}].type", code="unsupported_parameter")


def calls_of(tools: Sequence[Tool], choice: Choice | None, parallel: bool | None) -> tuple[Calls, bool]:
    """What answers may call, and whether the request names the tool.

    Raises:
        ApiError: Two tools have a name, or the choice names none of them.
    """
    by_name: dict[str, Function] = {}
    for index, tool in enumerate(tools):
        _check_nesting(tool.function.parameters, f"tools[{index}].function.parameters")
        if by_name.setdefault(tool.function.name, tool.function) is not tool.function:
            message = f"two tools are named {tool.function.name}: give each a name of its own"
            raise bad_request(message, param=f"tools[{index}].function.name", code="invalid_value")
    if not tools and choice not in (None, "none", "auto"):
        raise bad_request("tool_choice needs tools", param="tool_choice", code="invalid_value")
    mode, names = (choice or "auto"), list(by_name)
    if isinstance(mode, ToolChoice):
        mode, names = _chosen(mode)
    if unknown := [name for name in names if name not in by_name]:
        message = f"tool_choice names {unknown[0]}, which is none of the tools: {', '.join(by_name)[:500]}"
        raise bad_request(message, param="tool_choice", code="invalid_value")
    named = isinstance(choice, ToolChoice) and choice.type == "function"
    schemas = {name: by_name[name].parameters or {"type": "object", "properties": {}} for name in names}
    loose = {name: not by_name[name].strict for name in names}
    return Calls("none" if not tools else mode, schemas, parallel is not False and not named, loose), named


def _chosen(choice: ToolChoice) -> tuple[Literal["auto", "required"], list[str]]:
    if choice.type == "function" and choice.function is not None:
        return "required", [choice.function.name]
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        return allowed.mode, list(dict.fromkeys(tool.function.name for tool in allowed.tools))
    raise bad_request(f"there is no {choice.type} in it", param=f"tool_choice.{choice.type}", code="invalid_value")


def for_template(tool: Tool) -> dict[str, Any]:
    """A tool as templates take it."""
    function = {"name": tool.function.name, "description": tool.function.description or ""}
    function["parameters"] = tool.function.parameters or {"type": "object", "properties": {}}  # type: ignore[assignment]
    return {"type": "function", "function": function}


def arguments_of(call: ToolCall, where: str) -> dict[str, Any]:
    """A call's arguments, as templates take them.

    Raises:
        ApiError: They are no JSON object.
    """
    param = f"{where}.function.arguments"
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise bad_request(f"these are no JSON: {error}", param=param, code="invalid_value") from error
    if not isinstance(arguments, dict):
        message = "arguments are a JSON object, as a text"
        raise bad_request(message, param=param, code="invalid_value")
    _check_nesting(arguments, param)
    return arguments


def _check_nesting(value: Any, param: str) -> None:
    """Refuse what templates, and what breaks marks in it, could not walk through.

    Raises:
        ApiError: It nests deeper than answers are read.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inside
            for one in level
            for inside in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        if not level:
            return
    message = f"values stand inside more than {DEEPEST} others; expected: at most so many; fix: refer with $ref"
    raise bad_request(message, param=param, code="invalid_value")
