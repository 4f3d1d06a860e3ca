"""LlamaIndex: an answer, conversations about a picture with typed tools, and a typed answer."""

from __future__ import annotations

from typing import Any

from common import facts
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from tool_facts import KINDS, Cell, Conversation, Count, Look, extra, hold, says

KNOWN = facts()
TOOLS = [
    FunctionTool.from_defaults(lambda side: says(Look(side=side)), "Look", fn_schema=Look),
    FunctionTool.from_defaults(lambda row: says(Count(row=row)), "Count", fn_schema=Count),
]
KIND: dict[str, Any] = {"is_chat_model": True, "is_function_calling_model": True, "temperature": 0, "max_tokens": 200}
MODEL = OpenAILike(model=KNOWN["model"], api_base=KNOWN["url"], api_key="none", timeout=120, **KIND)
QUESTION = ChatMessage(role="user", blocks=[ImageBlock(url=KNOWN["picture"]), TextBlock(text=KNOWN["question"])])


def converse(cell: Cell) -> Conversation:
    """One of them."""
    messages, turns = [QUESTION], list[Any]()
    for choice in cell.choices:
        asked: dict[str, Any] = {"chat_history": messages, "tool_choice": choice, "extra_body": extra(KNOWN, choice)}
        asked["allow_parallel_tool_calls"] = choice == "required"
        if cell.streamed:
            *_, answer = MODEL.stream_chat_with_tools(TOOLS, **asked)
        else:
            answer = MODEL.chat_with_tools(TOOLS, **asked)
        calls = MODEL.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
        turns.append([KINDS[call.tool_name](**call.tool_kwargs) for call in calls])
        results = [
            ChatMessage(role="tool", content=says(typed), additional_kwargs={"tool_call_id": call.tool_id})
            for call, typed in zip(calls, turns[-1], strict=True)
        ]
        messages = [*messages, answer.message, *results]
    return turns


if __name__ == "__main__":
    assert MODEL.chat([QUESTION]).message.content == KNOWN["answer"]
    hold("llama-index, chat completions", converse)
    assert isinstance(MODEL.as_structured_llm(Look).chat([QUESTION]).raw, Look)
