"""litellm, as a library: chat completions, responses and embeddings, streams, structured output, errors."""

from __future__ import annotations

import json
from typing import Any

import litellm
from common import SHAPE, Facts, facts, parts, picture


def main(facts: Facts) -> None:
    """Chat completions, responses, embeddings."""
    completions(facts)
    responses(facts)
    embeddings(facts)


def completions(facts: Facts) -> None:
    """Chat completions."""
    asked: dict[str, Any] = {"model": f"openai/{facts['model']}", "messages": picture(facts)}
    asked |= {"api_base": facts["url"], "api_key": "none"}
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content == facts["answer"] and whole.usage.completion_tokens > 0
    pieces = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == facts["answer"]
    stopped = litellm.completion(**asked, stop=[" column"], seed=3, temperature=0)
    assert stopped.choices[0].message.content == facts["answer"].split(" column")[0]
    completion = litellm.completion(**asked, logprobs=True, top_logprobs=2)
    assert len(completion.choices[0].logprobs.content[0].top_logprobs) == 2
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SHAPE, "strict": True}}
    content = litellm.completion(**asked, response_format=wanted).choices[0].message.content
    assert json.loads(content)["n"] in (1, 2)
    try:
        litellm.completion(**{**asked, "model": "openai/gone"})
        raise AssertionError("an unknown model was taken")
    except litellm.NotFoundError:
        pass


def responses(facts: Facts) -> None:
    """Responses, which litellm asks for with the ``mcp`` package installed."""
    asked: dict[str, Any] = {"model": f"openai/{facts['model']}", "input": parts(facts)}
    asked |= {"api_base": facts["url"], "api_key": "none"}
    whole = litellm.responses(**asked)
    texts = [part.text for item in whole.output if item.type == "message" for part in item.content]
    assert (texts, whole.status) == ([facts["answer"]], "completed") and whole.usage.output_tokens > 0
    events = list(litellm.responses(**asked, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == facts["answer"]
    assert events[-1].type == "response.completed"
    shape = {"format": {"type": "json_schema", "name": "x", "schema": SHAPE, "strict": True}}
    guided = litellm.responses(**asked, text=shape)
    (text,) = [part.text for item in guided.output if item.type == "message" for part in item.content]
    assert json.loads(text)["n"] in (1, 2)
    try:
        litellm.responses(**{**asked, "model": "openai/gone"})
        raise AssertionError("an unknown model was taken")
    except litellm.NotFoundError:
        pass


def embeddings(facts: Facts) -> None:
    """The session's vectors, whole and cut."""
    texts, wanted = json.loads(facts["texts"]), json.loads(facts["vectors"])
    asked: dict[str, Any] = {"model": f"openai/{facts['vectors_model']}", "input": texts, "encoding_format": "float"}
    asked |= {"api_base": facts["vectors_url"], "api_key": "none"}
    got = [one["embedding"] for one in litellm.embedding(**asked).data]
    pairs = [(x, y) for one, other in zip(got, wanted, strict=True) for x, y in zip(one, other, strict=True)]
    assert max(abs(x - y) for x, y in pairs) < 1e-5
    short = litellm.embedding(**asked, dimensions=int(facts["dimensions"]), allowed_openai_params=["dimensions"])
    assert len(short.data[0]["embedding"]) == int(facts["dimensions"])


if __name__ == "__main__":
    main(facts())
