"""The official openai client: conversations about a picture with typed tools, in both interfaces."""

from __future__ import annotations

from typing import Any

from common import facts, parts, picture
from openai import OpenAI, pydantic_function_tool
from tool_facts import Call, Count, Look, as_items, asking, chosen, extra, hold, named

KNOWN = facts()
CLIENT = OpenAI(base_url=KNOWN["url"], api_key="none", timeout=120)
TOOLS: Any = [pydantic_function_tool(Look), pydantic_function_tool(Count)]


def fields(choice: str) -> dict[str, Any]:
    """What both interfaces have."""
    more = {"parallel_tool_calls": choice == "required", "extra_body": extra(KNOWN, choice)}
    return {"model": KNOWN["model"], "tools": TOOLS, **more}


def chat(messages: list[Any], choice: str, streamed: bool) -> list[tuple[str, Call]]:
    """Chat completions."""
    asked = {**fields(choice), "messages": messages, "tool_choice": chosen(choice)}
    if streamed:
        with CLIENT.chat.completions.stream(**asked) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = CLIENT.chat.completions.parse(**asked)
    return [(call.id, call.function.parsed_arguments) for call in answer.choices[0].message.tool_calls or ()]


def responses(items: list[Any], choice: str, streamed: bool) -> list[tuple[str, Call]]:
    """Responses."""
    asked = {**fields(choice), "input": items, "tool_choice": named(choice)}
    if streamed:
        with CLIENT.responses.stream(**asked) as events:
            response: Any = events.get_final_response()
    else:
        response = CLIENT.responses.parse(**asked)
    return [(item.call_id, item.parsed_arguments) for item in response.output if item.type == "function_call"]


if __name__ == "__main__":
    hold("openai, chat completions", asking(chat, picture(KNOWN)))
    hold("openai, responses", asking(responses, parts(KNOWN), as_items))
