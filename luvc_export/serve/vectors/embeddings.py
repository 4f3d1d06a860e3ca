"""``POST /v1/embeddings``: a vector for each text or picture, or for one chat (vLLM's ``messages``).

``POST /pooling`` gives those of every token, where the model makes some.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any

import msgspec
import numpy as np

from luvc_export.runtime.engine.vector_form import check_size, cut
from luvc_export.runtime.prompt.request_fields import HARMLESS, Refusal
from luvc_export.serve.http.api_errors import bad_request
from luvc_export.serve.http.json_bodies import decoded
from luvc_export.serve.interfaces.completions import is_token
from luvc_export.serve.interfaces.fields import refuse, unknown
from luvc_export.serve.interfaces.protocol import ChatMessage, chat_request, parse
from luvc_export.serve.vectors.inputs import (
    PER_NUMBER,
    REFUSED,
    Answered,
    Input,
    InputsRequest,
    check_count,
    item_parts,
)

#: Vectors that become one, at most.
MOST_POOL = 64
#: All that are read.
EMBEDDINGS_READ = ("model", "input", "messages", "encoding_format", "dimensions")
#: Of every token, which merge.
POOLING_READ = (*EMBEDDINGS_READ, "pool")
EMBEDDINGS_REFUSED: dict[str, Refusal] = {
    **REFUSED,
    "normalize": ((True,), ""),
    "embed_dtype": (("float32",), "encoding_format"),
    "endianness": (("native", "little"), "encoding_format"),
}


def parse_embedding(body: bytes, strict: bool = False) -> InputsRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    return _parse(body, strict, ("embed",), _body)


def parse_pooling(body: bytes, strict: bool = False) -> InputsRequest:
    """Read a body.

    Raises:
        ApiError: As ``protocol.parse``.
    """
    return _parse(body, strict, ("embed-many",), _pooled)


def _parse(body: bytes, strict: bool, tasks: tuple[str, ...], answer: Callable[..., dict[str, Any]]) -> InputsRequest:
    data = {name: value for name, value in decoded(body).items() if value is not None}
    refuse(data, EMBEDDINGS_REFUSED)
    read = POOLING_READ if answer is _pooled else EMBEDDINGS_READ
    ignored = unknown(data, {*read, *EMBEDDINGS_REFUSED, *HARMLESS}, strict)
    if ("input" in data) == ("messages" in data):
        raise bad_request("you must provide input, or messages", "input", "missing_required_parameter")
    form, size = data.get("encoding_format", "float"), data.get("dimensions")
    if form not in ("float", "base64"):
        raise bad_request("encoding_format is float or base64", "encoding_format", "invalid_value")
    if size is not None and (type(size) is not int or size < 1):
        raise bad_request("dimensions is a number of at least 1", "dimensions", "invalid_value")
    pool = data.get("pool", 1) if "pool" in read else 1
    if type(pool) is not int or not 1 <= pool <= MOST_POOL:
        raise bad_request(f"pool is a number of 1 to {MOST_POOL}", "pool", "invalid_value")
    named = {"model": data["model"]} if "model" in data else {}
    if "messages" in data:
        chat, inside = parse(msgspec.json.encode({**named, "messages": data["messages"]}), strict)
        inputs, ignored = [Input("messages", chat.messages)], ignored + inside
    else:
        inputs = _inputs(data["input"])
        chat = chat_request({**named, "messages": [{"role": "user", "content": ""}]}, whole=data)
    packed = form == "base64"
    return InputsRequest(
        chat.model,
        inputs,
        tasks,
        partial(answer, size=size, packed=packed),
        lambda bundle: check_size(bundle, size),
        lambda numbers: numbers * PER_NUMBER[packed],
        ignored=ignored,
        pool=pool,
    )


def _inputs(sent: Any) -> list[Input]:
    listed = sent if isinstance(sent, list) else [sent]
    if listed and all(map(is_token, listed)):
        listed = [listed]
    if not listed:
        raise bad_request("input is empty; expected: a text of one letter at least", "input", "invalid_value")
    check_count(len(listed), "input")
    places = [f"input[{at}]" if len(listed) > 1 else "input" for at in range(len(listed))]
    return [_input(one, where) for where, one in zip(places, listed, strict=True)]


def _input(sent: Any, where: str) -> Input:
    if not isinstance(sent, list):
        return Input(where, [ChatMessage("user", item_parts(sent, where))])
    if not sent or not all(map(is_token, sent)):
        raise bad_request(f"{where} is a text, or token ids, one at least", where, "invalid_value")
    return Input(where, [], token_ids=sent)


def _pooled(answered: Answered, size: int | None, packed: bool) -> dict[str, Any]:
    """VLLM's list of poolings: a list of vectors each, or their numbers as bytes, row by row."""
    data = []
    for at, rows in enumerate(np.ascontiguousarray(one, "<f4") for one in answered.vectors):
        shown = base64.b64encode(rows.tobytes()).decode() if packed else rows.tolist()
        data.append({"object": "pooling", "index": at, "shape": [*rows.shape], "data": shown})
    facts = {"id": f"pool-{uuid.uuid4().hex}", "object": "list", "created": int(time())}
    return {**facts, "model": answered.model, "data": data, "usage": answered.usage}


def _body(answered: Answered, size: int | None, packed: bool) -> dict[str, Any]:
    """OpenAI's list of embeddings."""
    rows = np.ascontiguousarray(cut(answered.how, np.stack(answered.vectors), size), "<f4")
    shown = [base64.b64encode(row.tobytes()).decode() for row in rows] if packed else rows.tolist()
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(shown)]
    return {"object": "list", "data": data, "model": answered.model, "usage": answered.usage}
