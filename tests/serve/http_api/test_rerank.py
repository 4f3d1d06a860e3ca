"""Scores over HTTP: the session's own, the best first, in the forms of Jina and of vLLM; what is refused."""

from __future__ import annotations

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
import vector_bundles

from luvc_export.runtime.session import Session
from luvc_export.serve.http.app import TABLE
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.server import Server

QUERY, TEXTS = "a red seven", ["a page", "Which of them shows a red seven?", "x"]


@pytest.fixture(scope="module")
def judge(pytestconfig: pytest.Config) -> Session:
    name = vector_bundles.RERANKER
    return Session(vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name) / "bundle", "cpu", threads=1)


@pytest.fixture(scope="module")
def running(judge: Session, demo_session: Session) -> Iterator[tuple[Server, Client]]:
    models = Models([ServedModel("judge", judge), ServedModel("demo", demo_session)])
    with serving(models, queue=4, max_images=2) as server:
        yield server


@pytest.fixture
def asked(running: tuple[Server, Client]) -> Client:
    return running[1]


def post(client: Client, path: str = "/v1/rerank", **request: Any) -> Reply:
    return client.call("POST", path, json.dumps({"model": "judge", **request}).encode())


def test_the_best_come_first(asked: Client, judge: Session) -> None:
    own = judge.score(QUERY, texts=TEXTS)
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        body = post(asked, path, query=QUERY, documents=TEXTS).json()
        order = [one["index"] for one in body["results"]]
        assert order == np.argsort(-own).tolist() and order != sorted(order, reverse=True)
        for one in body["results"]:
            assert abs(one["relevance_score"] - own[one["index"]]) < 1e-6
            assert one["document"] == {"text": TEXTS[one["index"]]}
        assert body["model"] == "judge" and body["usage"]["prompt_tokens"] > 100
    short = post(asked, query=QUERY, documents=TEXTS, top_n=2, return_documents=False).json()["results"]
    assert [one["index"] for one in short] == order[:2] and set(short[0]) == {"index", "relevance_score"}


def test_scores_are_in_the_order_of_the_documents(asked: Client, judge: Session) -> None:
    own = judge.score(QUERY, texts=TEXTS)
    for fields in ({"queries": QUERY, "documents": TEXTS}, {"text_1": [QUERY] * 3, "text_2": TEXTS}):
        data = post(asked, "/v1/score", **fields).json()["data"]
        assert np.abs(np.array([one["score"] for one in data]) - own).max() < 1e-6
    one = post(asked, "/v1/score", queries="another", documents="x").json()["data"]
    assert abs(one[0]["score"] - judge.score("another", texts=["x"])[0]) < 1e-6


def test_pictures_are_documents(asked: Client, judge: Session) -> None:
    """In Jina's form and in vLLM's, alone and with a text; an instruction in its own words."""
    pixels, url = picture()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "x"}]
    documents = [{"image": url}, {"content": content}, {"text": "x"}]
    own = [
        judge.score(QUERY, images=[pixels]),
        judge.score(QUERY, pairs=[(pixels, "x")]),
        judge.score(QUERY, texts=["x"]),
    ]
    scores = {one["index"]: one for one in post(asked, query=QUERY, documents=documents).json()["results"]}
    assert max(abs(scores[at]["relevance_score"] - own[at][0]) for at in range(3)) < 1e-5
    assert scores[0]["document"] == {}
    other = post(asked, query=QUERY, documents=["x"], instruction="Another.").json()["results"][0]["relevance_score"]
    assert abs(other - judge.score(QUERY, texts=["x"], instruction="Another.")[0]) < 1e-6


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"query": QUERY}, "documents", "must provide documents"),
        ({"documents": TEXTS}, "query", "must provide query"),
        ({"query": QUERY, "documents": []}, "documents", "empty"),
        ({"query": "", "documents": TEXTS}, "query", "empty"),
        ({"query": QUERY, "documents": ["x", ""]}, "documents[1]", "empty"),
        ({"query": QUERY, "documents": [{"content": []}, "x"]}, "documents[0]", "empty"),
        ({"query": QUERY, "documents": ["x"] * 2049}, "documents", "at most 2048"),
        ({"query": [QUERY], "documents": TEXTS}, "query", "is a text"),
        ({"query": QUERY, "documents": [1]}, "documents", "is a text"),
        ({"query": QUERY, "documents": [{"text": "x", "image": "y"}]}, "documents", "is a text"),
        ({"query": QUERY, "documents": [{"content": [{"type": "video_url"}]}]}, "documents", "text and image_url"),
        ({"query": QUERY, "documents": [{"content": [{"type": ["text"]}]}]}, "documents", "text and image_url"),
        ({"query": QUERY, "documents": [{"image": "not a picture"}]}, "documents", ""),
        ({"query": QUERY, "documents": [{"image": "data:image/png;base64,AAAA"}] * 3}, "documents[0]", "at most 2"),
        ({"query": {"image": "data:image/png;base64,AAAA"}, "documents": ["x"] * 3}, "documents[0]", "at most 2"),
        ({"query": QUERY, "documents": TEXTS, "top_n": 0}, "top_n", "at least 1"),
        ({"query": QUERY, "documents": TEXTS, "top_n": True}, "top_n", "at least 1"),
        ({"query": QUERY, "documents": TEXTS, "return_documents": "yes"}, "return_documents", "true or false"),
        ({"query": QUERY, "documents": TEXTS, "instruction": 3}, "instruction", "is a text"),
        ({"query": QUERY, "documents": ["a", "word " * 200]}, "documents[1]", "text capacity"),
        ({"query": QUERY, "documents": TEXTS, "model": "demo"}, "model", "POST /v1/chat/completions"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str, says: str, asked: Client) -> None:
    reply = post(asked, **fields)
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (400, param) and says in error["message"], error


def test_queries_that_fit_no_documents(asked: Client) -> None:
    error = post(asked, "/v1/score", queries=["a", "b"], documents=TEXTS).json()["error"]
    assert error["param"] == "queries" and "2 queries and 3 documents" in error["message"]
    error = post(asked, "/v1/score", queries="a", text_1="a", documents="x").json()["error"]
    assert error["param"] == "text_1"
    error = post(asked, "/v1/embeddings", input="x").json()["error"]
    assert error["param"] == "model" and "POST /v1/rerank" in error["message"]


SCORES = ("/v1/rerank", "/v1/score")
REQUEST = {"/v1/rerank": {"query": "a", "documents": ["x", "y"]}, "/v1/score": {"queries": "a", "documents": "x"}}
#: Of what is honoured, a request that it changes the answer to.
CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model": "none"}, "query": {"query": "b"}, "queries": {"queries": "b"}, "documents": {"documents": "z"},
    "text_1": {"queries": None, "text_1": "b"}, "text_2": {"documents": None, "text_2": "z"}, "top_n": {"top_n": 1},
    "return_documents": {"return_documents": False}, "instruction": {"instruction": "Another."},
}  # fmt: skip


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row["path"] in SCORES], ids=lambda row: f"{row['path']} {row['name']}"
)
def test_each_row_is_as_the_table_says(row: dict[str, Any], asked: Client) -> None:
    path, name = row["path"], row["name"]

    def seen(**fields: Any) -> Any:
        body = post(asked, path, **{**REQUEST[path], **fields}).json()
        return {key: value for key, value in body.items() if key not in ("id", "created")}

    if row["is"] == "honoured":
        assert seen(**CHANGES[name]) != seen()
    elif row["is"] == "refused":
        error = seen(**{name: {"never": "heard"}})["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name) and row["why"] in error["message"]
        for nothing in row["asks_for_nothing"]:
            assert seen(**{name: nothing}) == seen()
    else:
        assert seen(**{name: "x"}) == seen()
