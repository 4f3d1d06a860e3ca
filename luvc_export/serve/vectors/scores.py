"""``POST /v1/rerank`` (Jina's and Cohere's form) and ``POST /v1/score`` (vLLM's): how well documents answer a query."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from time import time
from typing import Any

import numpy as np

from luvc_export.runtime.engine.embed import chance
from luvc_export.runtime.prompt.request_fields import HARMLESS, Refusal
from luvc_export.serve.http.api_errors import bad_request
from luvc_export.serve.http.json_bodies import decoded
from luvc_export.serve.interfaces.fields import refuse, unknown
from luvc_export.serve.interfaces.protocol import ChatMessage, chat_request
from luvc_export.serve.vectors.inputs import REFUSED, Answered, Input, InputsRequest, check_count, item_parts

#: All that are read.
RERANK_READ = ("model", "query", "documents", "top_n", "return_documents", "instruction")
SCORE_READ = ("model", "queries", "documents", "text_1", "text_2", "instruction")
SCORES_REFUSED: dict[str, Refusal] = {
    **REFUSED,
    "max_tokens_per_doc": ((), "--text-capacity of export"),
    "rank_fields": ((), ""),
}
_NEWER = {"text_1": "queries", "text_2": "documents"}


def parse_rerank(body: bytes, strict: bool = False) -> InputsRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    data, ignored = _read(body, RERANK_READ, strict)
    documents = _several(data, "documents")
    top, shows = data.get("top_n"), data.get("return_documents", True)
    if top is not None and (type(top) is not int or top < 1):
        raise bad_request("top_n is a number of at least 1", "top_n", "invalid_value")
    if type(shows) is not bool:
        raise bad_request("return_documents is true or false", "return_documents", "invalid_value")
    inputs = _pairs([_one(data, "query")] * len(documents), documents, ("query", "documents"))
    shown = [_shown(one) for one in documents] if shows else None
    return _request(data, inputs, partial(_ranked, top=top, shown=shown), ignored)


def parse_score(body: bytes, strict: bool = False) -> InputsRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    data, ignored = _read(body, SCORE_READ, strict)
    for older, newer in _NEWER.items():
        if older in data:
            if newer in data:
                raise bad_request(f"{older} is an older name of {newer}: send one", older, "invalid_value")
            data[newer] = data.pop(older)
    queries, documents = _several(data, "queries"), _several(data, "documents")
    if len(queries) not in (1, len(documents)):
        message = f"there are {len(queries)} queries and {len(documents)} documents; expected: one query, or as many"
        raise bad_request(message, "queries", "invalid_value")
    spread = queries * (len(documents) // len(queries))
    return _request(data, _pairs(spread, documents, ("queries", "documents")), _scored, ignored)


def _read(body: bytes, read: tuple[str, ...], strict: bool) -> tuple[dict[str, Any], list[str]]:
    data = {name: value for name, value in decoded(body).items() if value is not None}
    refuse(data, SCORES_REFUSED)
    if not isinstance(data.get("instruction", ""), str):
        raise bad_request("instruction is a text", "instruction", "invalid_value")
    return data, unknown(data, {*read, *SCORES_REFUSED, *HARMLESS}, strict)


def _one(data: Mapping[str, Any], name: str) -> Any:
    if name not in data:
        raise bad_request(f"you must provide {name}", name, "missing_required_parameter")
    return data[name]


def _several(data: Mapping[str, Any], name: str) -> list[Any]:
    sent = _one(data, name)
    listed = sent if isinstance(sent, list) else [sent]
    if not listed:
        raise bad_request(f"{name} is empty; expected: one at least", name, "invalid_value")
    check_count(len(listed), name)
    return listed


def _pairs(queries: list[Any], documents: list[Any], names: tuple[str, str]) -> list[Input]:
    read = {id(one): item_parts(one, names[0]) for one in queries}
    inputs = []
    for at, (query, document) in enumerate(zip(queries, documents, strict=True)):
        where = f"{names[1]}[{at}]" if len(documents) > 1 else names[1]
        inputs.append(Input(where, [ChatMessage("user", item_parts(document, where))], read[id(query)]))
    return inputs


def _request(data: dict[str, Any], inputs: list[Input], body: Any, ignored: list[str]) -> InputsRequest:
    named = {"model": data["model"]} if "model" in data else {}
    chat = chat_request({**named, "messages": [{"role": "user", "content": ""}]}, whole=data)
    return InputsRequest(chat.model, inputs, ("rerank",), body, instruction=data.get("instruction"), ignored=ignored)


def _shown(document: Any) -> dict[str, Any]:
    """What of a document is sent back: its text, no picture."""
    if isinstance(document, str):
        return {"text": document}
    return {"text": document["text"]} if isinstance(document, Mapping) and "text" in document else {}


def _ranked(answered: Answered, top: int | None, shown: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The best first; of equal ones the first."""
    scores = chance(np.concatenate(answered.vectors))
    results = []
    for at in np.argsort(-scores, kind="stable")[:top].tolist():
        one = {"index": at, "relevance_score": float(scores[at])}
        results.append(one if shown is None else {**one, "document": shown[at]})
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": answered.model, "usage": answered.usage, "results": results}


def _scored(answered: Answered) -> dict[str, Any]:
    """In the order of the documents."""
    scores = chance(np.concatenate(answered.vectors)).tolist()
    data = [{"index": at, "object": "score", "score": score} for at, score in enumerate(scores)]
    facts = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time())}
    return {**facts, "model": answered.model, "data": data, "usage": answered.usage}
