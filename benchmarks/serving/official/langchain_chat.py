"""LangChain's chat model: answers, streams, structured output, errors."""

from __future__ import annotations

from common import SHAPE, Facts, facts, picture
from langchain_openai import ChatOpenAI


def main(facts: Facts) -> None:
    """Chat completions, then responses."""
    model = ChatOpenAI(model=facts["model"], base_url=facts["url"], api_key="none", temperature=0, timeout=120)  # type: ignore[arg-type]
    whole = model.invoke(picture(facts))
    assert whole.content == facts["answer"], whole
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream(picture(facts), stream_usage=True))
    assert "".join(str(piece.content) for piece in pieces) == facts["answer"] and len(pieces) > 3
    assert any(piece.usage_metadata for piece in pieces)
    assert model.bind(stop=[" column"]).invoke(picture(facts)).content == facts["answer"].split(" column")[0]
    assert "logprobs" in model.bind(logprobs=True).invoke(picture(facts)).response_metadata
    structured = model.with_structured_output(SHAPE, method="json_schema")
    assert structured.invoke(picture(facts))["n"] in (1, 2)  # type: ignore[index]
    try:
        model.bind(tools=[{"type": "custom", "custom": {"name": "f"}}]).invoke(picture(facts))
        raise AssertionError("a custom tool was taken")
    except Exception as error:
        assert "a tool of type custom is not supported" in str(error), error
    newer = ChatOpenAI(model=facts["model"], base_url=facts["url"], api_key="none", use_responses_api=True)  # type: ignore[arg-type]
    assert newer.invoke(picture(facts)).text == facts["answer"]
    assert "".join(piece.text for piece in newer.stream(picture(facts))) == facts["answer"]
    structured = newer.with_structured_output(SHAPE, method="json_schema")
    assert structured.invoke(picture(facts))["n"] in (1, 2)  # type: ignore[index]


if __name__ == "__main__":
    main(facts())
