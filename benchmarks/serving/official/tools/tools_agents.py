"""openai-agents: agents whose typed tools are called about a picture, in both interfaces."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    ToolCallItem,
    function_tool,
    set_tracing_disabled,
)
from common import facts, parts
from openai import AsyncOpenAI
from tool_facts import Cell, Conversation, Count, Look, extra, hold, says, typed

KNOWN = facts()
#: A run ends with its tools' results: the next answer has a choice of its own.
STOP: Any = "stop_on_first_tool"


@function_tool(name_override="Look")
def look(side: Literal["left", "right"]) -> str:
    """See a side of the picture."""
    return says(Look(side=side))


@function_tool(name_override="Count")
def count(row: Literal[1, 2, 3]) -> str:
    """Count in a row of the picture."""
    return says(Count(row=row))


async def held(model: Any, cell: Cell) -> Conversation:
    """A run for each answer, which goes on with what the last one left."""
    items: Any = parts(KNOWN)
    turns: Conversation = []
    for choice in cell.choices:
        more: Any = {"parallel_tool_calls": choice == "required", "extra_body": extra(KNOWN, choice)}
        settings = ModelSettings(tool_choice=choice, **more)
        agent = Agent("looker", model=model, tools=[look, count], model_settings=settings, tool_use_behavior=STOP)
        if cell.streamed:
            run: Any = Runner.run_streamed(agent, items, max_turns=1)
            async for _ in run.stream_events():
                pass
        else:
            run = await Runner.run(agent, items, max_turns=1)
        calls = [item.raw_item for item in run.new_items if isinstance(item, ToolCallItem)]
        turns.append([typed(call.name, call.arguments) for call in calls])
        items = run.to_input_list()
    return turns


if __name__ == "__main__":
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(base_url=KNOWN["url"], api_key="none", timeout=120)
    kinds = (("chat completions", OpenAIChatCompletionsModel), ("responses", OpenAIResponsesModel))
    with asyncio.Runner() as loop:  # one for all: the client's connections are of it
        for name, kind in kinds:
            model = kind(KNOWN["model"], client)
            hold(f"openai-agents, {name}", lambda cell, model=model: loop.run(held(model, cell)))
        loop.run(client.close())
