"""LlamaIndex: a conversation of two calls about a picture, in turn and at once, whole and streamed; a typed answer."""

from __future__ import annotations

from typing import Any

from common import Facts, facts
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from tool_facts import KINDS, Count, Look, says

TOOLS = [
    FunctionTool.from_defaults(lambda side: says(Look(side=side)), "Look", fn_schema=Look),
    FunctionTool.from_defaults(lambda row: says(Count(row=row)), "Count", fn_schema=Count),
]


def main(facts: Facts) -> None:
    """Chat completions."""
    model = OpenAILike(
        model=facts["model"],
        api_base=facts["url"],
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0,
        max_tokens=120,
        timeout=120,
    )
    question = ChatMessage(role="user", blocks=[ImageBlock(url=facts["picture"]), TextBlock(text=facts["question"])])
    assert model.chat([question]).message.content == facts["answer"]
    for stream in (False, True):
        messages: list[Any] = [question]
        for tool in TOOLS:
            asked: dict[str, Any] = {"chat_history": messages, "tool_choice": tool.metadata.name}
            if stream:
                *_, answer = model.stream_chat_with_tools(TOOLS, **asked)
            else:
                answer = model.chat_with_tools(TOOLS, **asked)
            (call,) = model.get_tool_calls_from_response(answer)
            assert call.tool_name == tool.metadata.name, call
            result = tool.call(**call.tool_kwargs).content
            more = {"tool_call_id": call.tool_id}
            messages = [*messages, answer.message, ChatMessage(role="tool", content=result, additional_kwargs=more)]
    several = model.chat_with_tools(TOOLS, chat_history=[question], tool_required=True, allow_parallel_tool_calls=True)
    for call in model.get_tool_calls_from_response(several, error_on_no_tool_call=False):
        KINDS[call.tool_name](**call.tool_kwargs)
    assert isinstance(model.as_structured_llm(Look).chat([question]).raw, Look)


if __name__ == "__main__":
    main(facts())
