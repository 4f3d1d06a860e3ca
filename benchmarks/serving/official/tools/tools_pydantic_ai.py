"""pydantic-ai: an agent that must answer by a typed tool, about a picture, whole and streamed."""

from __future__ import annotations

import asyncio
import base64
from typing import Literal

from common import Facts, facts
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

#: The bundled model would call again and again.
ONE = ModelSettings(parallel_tool_calls=False)


class Side(BaseModel):
    """A side of the picture."""

    side: Literal["left", "right"]


class Row(BaseModel):
    """A row of the picture."""

    row: Literal[1, 2, 3]


async def main(facts: Facts) -> None:
    """Two typed answers of one conversation; the second is streamed."""
    model = OpenAIChatModel(facts["model"], provider=OpenAIProvider(base_url=facts["url"], api_key="none"))
    data = base64.b64decode(facts["picture"].partition(",")[2])
    first = await Agent(model, output_type=Side, model_settings=ONE).run(
        [facts["question"], BinaryContent(data, media_type="image/png")]
    )
    assert first.output.side in ("left", "right")
    agent = Agent(model, output_type=Row, model_settings=ONE)
    async with agent.run_stream("and the row?", message_history=first.all_messages()) as stream:
        answer = await stream.get_output()
    assert answer.row in (1, 2, 3)


if __name__ == "__main__":
    asyncio.run(main(facts()))
