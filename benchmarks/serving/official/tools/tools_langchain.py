"""LangChain: bound tools about a picture, in turn and streamed, and typed answers by a tool."""

from __future__ import annotations

from typing import Any, Literal

from common import Facts, facts, picture
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from tool_facts import TOOLS, check


class Side(BaseModel):
    """A side of the picture."""

    side: Literal["left", "right"]


def main(facts: Facts) -> None:
    """Chat completions."""
    model = ChatOpenAI(model=facts["model"], base_url=facts["url"], api_key="none", temperature=0, timeout=120)  # type: ignore[arg-type]
    messages: list[Any] = [HumanMessage(content=picture(facts)[0]["content"])]
    for name in ("look", "count"):
        bound = model.bind_tools(TOOLS, tool_choice=name)
        whole: Any = bound.invoke(messages)
        pieces: Any = None
        for piece in bound.stream(messages):
            pieces = piece if pieces is None else pieces + piece
        (call,) = whole.tool_calls
        assert [one["args"] for one in pieces.tool_calls] == [call["args"]], pieces
        messages += [whole, ToolMessage(content=check(name, call["args"]), tool_call_id=call["id"])]
    typed = model.with_structured_output(Side, method="function_calling").invoke(picture(facts))
    assert isinstance(typed, Side)


if __name__ == "__main__":
    main(facts())
