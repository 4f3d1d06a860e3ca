"""pydantic-ai: an agent whose typed tools are called about a picture, in both interfaces."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from common import facts
from pydantic_ai import Agent, BinaryContent, ModelResponse, ModelSettings, RunContext, Tool, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from tool_facts import KINDS, Cell, Conversation, Count, Look, extra, hold, says, typed

KNOWN = facts()
ASKED = [KNOWN["question"], BinaryContent(base64.b64decode(KNOWN["picture"].partition(",")[2]), media_type="image/png")]


def look(call: Look) -> str:
    """See a side of the picture."""
    return says(call)


def count(call: Count) -> str:
    """Count in a row of the picture."""
    return says(call)


def agent(model: Any, cell: Cell) -> Agent:
    """Whose choice depends on the step."""

    def settings(context: RunContext) -> ModelSettings:
        choice: Any = cell.choices[context.run_step - 1]
        several, body = choice == "required", extra(KNOWN, choice)
        choice = [choice] if choice in KINDS else choice
        return ModelSettings(tool_choice=choice, parallel_tool_calls=several, extra_body=body)

    tools = [Tool(look, name="Look", strict=True), Tool(count, name="Count", strict=True)]
    return Agent(model, model_settings=settings, tools=tools)


async def held(model: Any, cell: Cell) -> Conversation:
    """A run."""
    if cell.streamed:
        async with agent(model, cell).run_stream(ASKED) as run:
            assert isinstance(await run.get_output(), str)
            messages = run.all_messages()
    else:
        messages = (await agent(model, cell).run(ASKED)).all_messages()
    answers = [message.parts for message in messages if isinstance(message, ModelResponse)]
    return [
        [typed(part.tool_name, part.args_as_json_str()) for part in parts if isinstance(part, ToolCallPart)]
        for parts in answers
    ]


if __name__ == "__main__":
    provider = OpenAIProvider(base_url=KNOWN["url"], api_key="none")
    kinds: Any = (("chat completions", OpenAIChatModel), ("responses", OpenAIResponsesModel))
    with asyncio.Runner() as loop:  # one for all: the provider's connections are of it
        for name, kind in kinds:
            model = kind(KNOWN["model"], provider=provider)
            hold(f"pydantic-ai, {name}", lambda cell, model=model: loop.run(held(model, cell)))
        loop.run(provider.client.close())
