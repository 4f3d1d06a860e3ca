"""openai-agents: an agent that must use a tool about a picture, in both interfaces, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import Facts, facts, parts
from openai import AsyncOpenAI

CALLED: list[str] = []
#: A tool's result is the answer: the bundled model does not end what it writes freely.
STOP: Any = "stop_on_first_tool"


@function_tool
def look(side: Literal["left", "right"]) -> str:
    """See a side of the picture."""
    assert side in ("left", "right")
    CALLED.append("look")
    return "seen"


@function_tool
def count(row: Literal[1, 2, 3]) -> str:
    """Count in a row of the picture."""
    assert row in (1, 2, 3)
    CALLED.append("count")
    return "3"


async def main(facts: Facts) -> None:
    """A run for each tool and interface, of a call; the second of each is streamed."""
    client = AsyncOpenAI(base_url=facts["url"], api_key="none", timeout=120)
    for model in (OpenAIChatCompletionsModel(facts["model"], client), OpenAIResponsesModel(facts["model"], client)):
        for name in ("look", "count"):
            settings = ModelSettings(tool_choice=name, max_tokens=120, parallel_tool_calls=False)
            agent = Agent("looker", model=model, tools=[look, count], model_settings=settings, tool_use_behavior=STOP)
            asked: Any = parts(facts)
            if name == "count":
                result = Runner.run_streamed(agent, asked, max_turns=2)
                async for _ in result.stream_events():
                    pass
            else:
                await Runner.run(agent, asked, max_turns=2)
    assert CALLED == ["look", "count"] * 2, CALLED


if __name__ == "__main__":
    set_tracing_disabled(disabled=True)
    asyncio.run(main(facts()))
