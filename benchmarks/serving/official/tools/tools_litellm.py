"""litellm: a conversation of two calls about a picture, the second streamed."""

from __future__ import annotations

import json
from typing import Any

import litellm
from common import Facts, facts, picture
from tool_facts import TOOLS, check


def main(facts: Facts) -> None:
    """Chat completions."""
    messages: list[Any] = picture(facts)
    for name in ("look", "count"):
        asked: dict[str, Any] = {"model": f"openai/{facts['model']}", "messages": messages, "tools": TOOLS}
        asked |= {"api_base": facts["url"], "api_key": "none"}
        asked["tool_choice"] = {"type": "function", "function": {"name": name}}
        if name == "count":
            answer: Any = litellm.stream_chunk_builder(list(litellm.completion(**asked, stream=True)), messages)
        else:
            answer = litellm.completion(**asked)
        message = answer.choices[0].message
        (call,) = message.tool_calls
        result = check(call.function.name, json.loads(call.function.arguments))
        messages = [*messages, message.model_dump(exclude_none=True)]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    main(facts())
