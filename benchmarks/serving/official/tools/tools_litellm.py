"""litellm: conversations about a picture with tools, in both interfaces; arguments come as JSON."""

from __future__ import annotations

from typing import Any

import litellm
from common import facts, parts, picture
from tool_facts import TOOLS, Call, as_items, asking, chosen, extra, hold, named, typed

KNOWN = facts()
litellm.suppress_debug_info = True


def fields(choice: str) -> dict[str, Any]:
    """What both interfaces have."""
    more = {"parallel_tool_calls": choice == "required", "extra_body": extra(KNOWN, choice)}
    return {"model": f"openai/{KNOWN['model']}", "api_base": KNOWN["url"], "api_key": "none", **more}


def chat(messages: list[Any], choice: str, streamed: bool) -> list[tuple[str, Call]]:
    """Chat completions."""
    asked = {**fields(choice), "messages": messages, "tools": TOOLS, "tool_choice": chosen(choice)}
    if streamed:
        answer: Any = litellm.stream_chunk_builder(list(litellm.completion(**asked, stream=True)), messages)
    else:
        answer = litellm.completion(**asked)
    calls = answer.choices[0].message.tool_calls or ()
    return [(call.id, typed(call.function.name, call.function.arguments)) for call in calls]


def responses(items: list[Any], choice: str, streamed: bool) -> list[tuple[str, Call]]:
    """Responses."""
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked = {**fields(choice), "input": items, "tools": tools, "tool_choice": named(choice)}
    if streamed:
        *_, last = litellm.responses(**asked, stream=True)
        response: Any = last.response
    else:
        response = litellm.responses(**asked)
    calls = [item for item in response.output if item.type == "function_call"]
    return [(call.call_id, typed(call.name, call.arguments)) for call in calls]


if __name__ == "__main__":
    hold("litellm, chat completions", asking(chat, picture(KNOWN)))
    hold("litellm, responses", asking(responses, parts(KNOWN), as_items))
