"""The official openai client: a conversation of two calls about a picture, in turn and streamed, in both interfaces."""

from __future__ import annotations

import json
from typing import Any

from common import Facts, facts, parts, picture
from openai import OpenAI
from tool_facts import TOOLS, check


def chat(client: OpenAI, facts: Facts, stream: bool) -> None:
    """Chat completions: look, then count, then an answer."""
    messages: list[Any] = picture(facts)
    for name in ("look", "count"):
        asked: dict[str, Any] = {"model": facts["model"], "messages": messages, "tools": TOOLS}
        asked["tool_choice"] = {"type": "function", "function": {"name": name}}
        if stream:
            with client.chat.completions.stream(**asked) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        (call,) = message.tool_calls or ()
        assert call.type == "function" and call.function.name == name, call
        result = check(name, json.loads(call.function.arguments))
        sent = {"id": call.id, "type": "function", "function": {"name": name, "arguments": call.function.arguments}}
        messages = [*messages, {"role": "assistant", "content": None, "tool_calls": [sent]}]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    asked = {"model": facts["model"], "messages": messages, "tools": TOOLS, "tool_choice": "none", "max_tokens": 8}
    assert client.chat.completions.create(**asked).choices[0].message.tool_calls is None


def responses(client: OpenAI, facts: Facts) -> None:
    """Responses: the same, in which the second call is streamed."""
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    items: list[Any] = parts(facts)
    for name in ("look", "count"):
        asked: dict[str, Any] = {"model": facts["model"], "input": items, "tools": tools}
        asked["tool_choice"] = {"type": "function", "name": name}
        if name == "count":
            with client.responses.stream(**asked) as events:
                response: Any = events.get_final_response()
        else:
            response = client.responses.create(**asked)
        (call,) = [item for item in response.output if item.type == "function_call"]
        result = check(call.name, json.loads(call.arguments))
        sent = {"type": "function_call", "call_id": call.call_id, "name": name, "arguments": call.arguments}
        items = [*items, sent, {"type": "function_call_output", "call_id": call.call_id, "output": result}]
    last = client.responses.create(model=facts["model"], input=items, tools=tools, tool_choice="none")
    assert all(item.type == "message" for item in last.output)


def parallel(client: OpenAI, facts: Facts) -> None:
    """One call or several of any of them, each as its schema says."""
    answer = client.chat.completions.create(
        model=facts["model"],
        messages=picture(facts),
        tools=TOOLS,  # type: ignore[arg-type]
        tool_choice="required",
        temperature=1.5,
        seed=5,
        max_tokens=120,
    ).choices[0]
    whole = answer.finish_reason == "tool_calls"
    for call in (answer.message.tool_calls or [])[: None if whole else -1]:
        assert call.type == "function"
        check(call.function.name, json.loads(call.function.arguments))


if __name__ == "__main__":
    known = facts()
    official = OpenAI(base_url=known["url"], api_key="none", timeout=120)
    for streams in (False, True):
        chat(official, known, streams)
    responses(official, known)
    parallel(official, known)
