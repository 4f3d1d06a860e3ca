"""LangChain: conversations about a picture with typed tools, in both interfaces; a typed answer by a tool."""

from __future__ import annotations

from typing import Any

from common import facts, picture
from langchain_core.output_parsers import PydanticToolsParser
from langchain_openai import ChatOpenAI
from tool_facts import Call, Count, Look, asking, extra, hold

KNOWN = facts()
TYPED = PydanticToolsParser(tools=[Look, Count])


def model(responses: bool) -> ChatOpenAI:
    """Of an interface."""
    where: dict[str, Any] = {"base_url": KNOWN["url"], "api_key": "none", "timeout": 120}
    return ChatOpenAI(model=KNOWN["model"], use_responses_api=responses, **where)


def ask(responses: bool, messages: list[Any], choice: str, streamed: bool) -> list[tuple[str, Call]]:
    """An answer."""
    more: dict[str, Any] = {"parallel_tool_calls": choice == "required", "extra_body": extra(KNOWN, choice)}
    bound = model(responses).bind_tools([Look, Count], tool_choice=choice, strict=True, **more)
    answer: Any = None
    if streamed:
        for piece in bound.stream(messages):
            answer = piece if answer is None else answer + piece
    else:
        answer = bound.invoke(messages)
    ids = [call["id"] for call in answer.tool_calls]
    return list(zip(ids, TYPED.invoke(answer), strict=True))


if __name__ == "__main__":
    for name, responses in (("chat completions", False), ("responses", True)):
        hold(f"langchain, {name}", asking(lambda *asked, of=responses: ask(of, *asked), picture(KNOWN)))
    typed = model(False).with_structured_output(Look, method="function_calling").invoke(picture(KNOWN))
    assert isinstance(typed, Look)
