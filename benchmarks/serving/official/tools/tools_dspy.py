"""DSPy: typed answers about a picture, by a schema and by tools, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import dspy
import litellm
from common import Facts, facts, picture
from tool_facts import KINDS, TOOLS, as_messages, chosen, typed


class Both(dspy.Signature):
    """Look at the picture."""

    picture: dspy.Image = dspy.InputField()
    question: str = dspy.InputField()
    side: Literal["left", "right"] = dspy.OutputField()
    row: Literal[1, 2, 3] = dspy.OutputField()


def main(facts: Facts) -> None:
    """Chat completions."""
    name = f"openai/{facts['model']}"
    known = {"supports_response_schema": True, "supports_function_calling": True, "litellm_provider": "openai"}
    litellm.register_model({name: {**known, "mode": "chat"}})  # DSPy asks litellm what a model can
    where = {"api_base": facts["url"], "api_key": "none", "cache": False, "temperature": 0, "max_tokens": 120}
    model = dspy.LM(name, engine="litellm", **where)
    dspy.configure(lm=model, adapter=dspy.JSONAdapter())
    asked = {"picture": dspy.Image(facts["picture"]), "question": facts["question"]}
    answer = dspy.Predict(Both)(**asked)
    assert answer.side in ("left", "right") and answer.row in (1, 2, 3), answer
    messages: list[Any] = picture(facts)
    for name in KINDS:
        (output,) = model(messages=messages, tools=TOOLS, tool_choice=chosen(name))
        (call,) = output["tool_calls"]
        messages += as_messages([(call.id, typed(call.function.name, call.function.arguments))])
    asyncio.run(streamed(asked))


async def streamed(asked: dict[str, Any]) -> None:
    """The typed answer, in pieces."""
    listener = dspy.streaming.StreamListener("side")
    last: Any = None
    async for piece in dspy.streamify(dspy.Predict(Both), stream_listeners=[listener])(**asked):
        last = piece
    assert isinstance(last, dspy.Prediction) and last.side in ("left", "right"), last


if __name__ == "__main__":
    main(facts())
