"""The official openai client's embeddings, and LangChain's over it: the session's vectors, in both formats."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from common import Facts, facts, report
from langchain_openai import OpenAIEmbeddings
from openai import AsyncOpenAI, BadRequestError, OpenAI


def off(ours: list[list[float]], wanted: list[list[float]]) -> float:
    """The largest difference of a number."""
    assert [len(one) for one in ours] == [len(one) for one in wanted]
    rows = zip(ours, wanted, strict=True)
    return max(abs(x - y) for one, other in rows for x, y in zip(one, other, strict=True))


def vectors(facts: Facts) -> None:
    """As the client asks by itself (base64), as numbers, cut, at once and one after another."""
    texts, wanted = json.loads(facts["texts"]), json.loads(facts["vectors"])
    how: dict[str, Any] = {"base_url": facts["vectors_url"], "api_key": "none", "timeout": 120}
    client, asked = OpenAI(**how), {"model": facts["vectors_model"], "input": texts}
    for more in ({}, {"encoding_format": "float"}):
        whole = client.embeddings.create(**asked, **more)
        assert off([one.embedding for one in whole.data], wanted) < 1e-5
        assert [one.index for one in whole.data] == [*range(len(texts))] and whole.usage.prompt_tokens > len(texts)
    short = client.embeddings.create(**asked, dimensions=int(facts["dimensions"])).data[0].embedding
    assert len(short) == int(facts["dimensions"]) and abs(sum(x * x for x in short) - 1) < 1e-4
    assert off([short], [wanted[0][: len(short)]]) > 1e-5, "a cut vector has length 1 again"

    async def alone() -> list[list[float]]:
        async with AsyncOpenAI(**how) as other:
            calls = [other.embeddings.create(model=facts["vectors_model"], input=text) for text in texts]
            return [one.data[0].embedding for one in await asyncio.gather(*calls)]

    assert off(asyncio.run(alone()), wanted) < 1e-5
    for wrong, param in (({"input": [[1, 2]]}, "input"), ({"dimensions": 3}, "dimensions"), ({"input": ""}, "input")):
        try:
            client.embeddings.create(**{**asked, **wrong})
            raise AssertionError(f"{wrong} was taken")
        except BadRequestError as error:
            assert error.param == param, error


def langchain(facts: Facts) -> None:
    """``check_embedding_ctx_length=False`` sends texts, as docs/embeddings.md says; its default sends tokens."""
    texts, wanted = json.loads(facts["texts"]), json.loads(facts["vectors"])
    how: dict[str, Any] = {"base_url": facts["vectors_url"], "api_key": "none", "model": facts["vectors_model"]}
    embeds = OpenAIEmbeddings(**how, check_embedding_ctx_length=False)
    assert off(embeds.embed_documents(texts), wanted) < 1e-5
    assert off([embeds.embed_query(texts[0])], wanted[:1]) < 1e-5


if __name__ == "__main__":
    known = facts()
    vectors(known)
    report("openai, embeddings", "passes")
    langchain(known)
    report("langchain, embeddings", "passes")
