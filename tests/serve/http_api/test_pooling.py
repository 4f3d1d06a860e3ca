"""Vectors of every token over HTTP: the session's own, in both formats; bytes of an answer are bounded."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import Client, Reply
from running import serving
from test_embeddings import picture

sys.path.append(str(Path(__file__).resolve().parents[2] / "export" / "families"))
import many_vectors

from luvc_export.runtime.session import Session
from luvc_export.serve.http.app import TABLE
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.server import Server
from luvc_export.serve.vectors import inputs

TEXTS = ["a red seven", "x"]


@pytest.fixture(scope="module")
def pages(pytestconfig: pytest.Config) -> Session:
    folder = many_vectors.kept(pytestconfig.cache.mkdir("many-quarters"), "quarters")
    return Session(folder / "bundle", "cpu", threads=1)


@pytest.fixture(scope="module")
def running(pages: Session) -> Iterator[tuple[Server, Client]]:
    with serving(Models([ServedModel("pages", pages)]), queue=4) as server:
        yield server


@pytest.fixture
def asked(running: tuple[Server, Client]) -> Client:
    return running[1]


def post(client: Client, path: str = "/pooling", **request: Any) -> Reply:
    return client.call("POST", path, json.dumps({"model": "pages", **request}).encode())


def test_vectors_are_the_sessions(asked: Client, pages: Session) -> None:
    """Of queries and of a page, as numbers and as bytes."""
    own = pages.embed_many(texts=TEXTS)
    body = post(asked, input=TEXTS).json()
    assert [one["index"] for one in body["data"]] == [0, 1] and body["usage"]["prompt_tokens"] > 20
    packed = post(asked, input=TEXTS, encoding_format="base64").json()["data"]
    for mine, one, other in zip(own, body["data"], packed, strict=True):
        assert one["shape"] == [*mine.shape] and np.abs(np.array(one["data"]) - mine).max() < 1e-5
        decoded = np.frombuffer(base64.b64decode(other["data"]), "<f4").reshape(other["shape"])
        assert np.array_equal(decoded, np.array(one["data"], np.float32))
    pixels, url = picture()
    (wanted,) = pages.embed_many(images=[pixels])
    (few,) = pages.embed_many(images=[pixels], pool=3)
    (one,) = post(asked, input={"image": url}, pool=3).json()["data"]
    assert one["shape"] == [*few.shape] and len(few) < len(wanted) and np.abs(np.array(one["data"]) - few).max() < 1e-5
    for fields in (
        {"input": {"image": url}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]},
    ):
        (one,) = post(asked, **fields).json()["data"]
        assert one["shape"] == [*wanted.shape] and np.abs(np.array(one["data"]) - wanted).max() < 1e-5


def test_what_is_refused(asked: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, fields, param, says in (
        ("/v1/embeddings", {"input": "x"}, "model", "POST /pooling"),
        ("/v1/rerank", {"query": "x", "documents": ["x"]}, "model", "POST /pooling"),
        ("/pooling", {"input": "x", "dimensions": 8}, "dimensions", "may not be cut"),
        ("/pooling", {"input": [7]}, "input", "check_embedding_ctx_length"),
        ("/pooling", {"input": "x", "pool": 65}, "pool", "1 to 64"),
        ("/pooling", {"input": "x", "pool": True}, "pool", "1 to 64"),
    ):
        error = post(asked, path, **fields).json()["error"]
        assert error["param"] == param and says in error["message"], error
    monkeypatch.setattr(inputs, "MOST_BYTES", 16 * 12 * 60)
    assert post(asked, input="x").status == 200
    error = post(asked, input=["x"] * 4).json()["error"]
    assert error["code"] == "invalid_value" and "the answer would have" in error["message"]
    assert post(asked, input=["x"] * 3, encoding_format="base64").status == 200


@pytest.mark.parametrize("row", [row for row in TABLE if row["path"] == "/pooling"], ids=lambda row: row["name"])
def test_each_row_is_as_the_table_says(row: dict[str, Any], asked: Client) -> None:
    """What is honoured is tested above and, as the same code reads it, in ``test_embeddings``."""
    plain, name = post(asked, input="x").json()["data"], row["name"]
    if row["is"] == "refused" and "." not in name:
        error = post(asked, input="x", **{name: {"never": "heard"}}).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name) and row["why"] in error["message"]
    elif row["is"] == "harmless":
        assert post(asked, input="x", **{name: "x"}).json()["data"] == plain
