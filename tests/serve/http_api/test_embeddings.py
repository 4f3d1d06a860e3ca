"""Vectors over HTTP: the session's own, in both formats; what is refused; turns with others' requests."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from calling import Client, Reply
from numpy.typing import NDArray
from PIL import Image
from running import serving
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

sys.path.append(str(Path(__file__).resolve().parents[2] / "export" / "families"))
import vector_bundles

from luvc_export.runtime.generation.detokenise import text_of
from luvc_export.runtime.session import Session
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.app import TABLE
from luvc_export.serve.interfaces.completions import check_ids
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.server import Server

TEXTS = ["a page", "Which of them shows a red seven?", "x"]


@pytest.fixture(scope="module")
def pages(pytestconfig: pytest.Config) -> Session:
    folder = vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen2_vl"), "qwen2_vl")
    return Session(folder / "bundle", "cpu", threads=1)


@pytest.fixture(scope="module")
def running(pages: Session, demo_session: Session) -> Iterator[tuple[Server, Client]]:
    with serving(Models([ServedModel("pages", pages), ServedModel("demo", demo_session)]), queue=4) as server:
        yield server


@pytest.fixture
def asked(running: tuple[Server, Client]) -> Client:
    return running[1]


def post(client: Client, path: str = "/v1/embeddings", **request: Any) -> Reply:
    return client.call("POST", path, json.dumps({"model": "pages", **request}).encode())


def vectors(reply: Reply) -> NDArray[np.float32]:
    body = reply.json()
    assert reply.status == 200, body
    assert [one["index"] for one in body["data"]] == [*range(len(body["data"]))]
    return np.array([one["embedding"] for one in body["data"]], np.float32)


def picture(seed: int = 0) -> tuple[NDArray[np.uint8], str]:
    height, width = vector_bundles.tiny_of("qwen2_vl").size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "png")
    return pixels, "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_texts_have_the_vectors_of_the_session(asked: Client, pages: Session) -> None:
    """One, several, as numbers and as bytes; tokens are counted without compression."""
    own = pages.embed(texts=TEXTS)
    whole = post(asked, input=TEXTS)
    assert np.abs(vectors(whole) - own).max() < 1e-5
    assert np.abs(vectors(post(asked, input=TEXTS[1])) - own[1]).max() < 1e-5
    body = post(asked, input=TEXTS, encoding_format="base64").json()
    decoded = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in body["data"]]
    assert np.array_equal(np.stack(decoded), vectors(whole))
    assert body["object"] == "list" and body["model"] == "pages" and body["data"][0]["object"] == "embedding"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > len("".join(TEXTS))
    assert np.abs(vectors(post(asked, input=TEXTS)) - own[::-1]).max() > 1e-2, "the comparison cannot fail"


def test_dimensions_are_those_of_the_folder(asked: Client, pages: Session) -> None:
    assert np.abs(vectors(post(asked, input="x", dimensions=16)) - pages.embed(texts=["x"], dimensions=16)).max() < 1e-5
    error = post(asked, input="x", dimensions=20).json()["error"]
    assert error["param"] == "dimensions" and "16, 32" in error["message"]


def test_pictures_come_in_messages(asked: Client, pages: Session) -> None:
    """A picture asked twice, whose features are kept, with a text, and under an instruction of its own."""
    pixels, url = picture()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    own = pages.embed(images=[pixels])
    for _ in range(2):
        assert np.abs(vectors(post(asked, messages=[{"role": "user", "content": content}])) - own).max() < 1e-5
    content = [*content, {"type": "text", "text": "x"}]
    messages = [{"role": "system", "content": "Another."}, {"role": "user", "content": content}]
    wanted = pages.embed(pairs=[(pixels, "x")], instruction="Another.")
    assert np.abs(vectors(post(asked, messages=messages)) - wanted).max() < 1e-5
    assert np.abs(own - wanted).max() > 1e-2


@pytest.mark.parametrize(
    ("request_", "param", "says"),
    [
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
        ({"input": ["a", [1]]}, "input", "serve --allow-token-ids"),
        ({"input": [[1], []]}, "input[1]", "or token ids, one at least"),
        ({"input": [True]}, "input", "is a text"),
        ({"input": [[1, "a"]]}, "input", "or token ids"),
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "empty"),
        ({"input": ["a", ""]}, "input[1]", "empty"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": {"text": ["a"]}}, "input", "is a text"),
        ({"input": ["a", None]}, "input[1]", "is a text"),
        ({}, "input", "input, or messages"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input", "input, or messages"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float or base64"),
        ({"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ({"input": "a", "dimensions": True}, "dimensions", "at least 1"),
        ({"input": "a", "truncate_prompt_tokens": 8}, "truncate_prompt_tokens", "not supported"),
        ({"input": "a", "normalize": False}, "normalize", "not supported"),
        ({"input": ["a", "word " * 200]}, "input[1]", "text capacity"),
        ({"input": "a", "model": "demo"}, "model", "POST /v1/chat/completions"),
    ],
)
def test_what_is_refused(request_: dict[str, Any], param: str, says: str, asked: Client) -> None:
    reply = post(asked, **request_)
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (400, param) and says in error["message"], error


def test_token_ids_are_read_where_the_server_allows_them(pages: Session) -> None:
    """Equal to the text they decode to, special ones by their names: one list, several, texts beside; in range."""
    tokenizer, vocab = pages.encoder.tokenizer, pages.bundle.manifest.decoder.vocab
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    ids[2] = [min({*tokenizer.get_added_tokens_decoder()} - pages.encoder.visual_ids), *ids[2]]
    texts = [tokenizer.decode(one, skip_special_tokens=False) for one in ids]
    with serving(Models([ServedModel("pages", pages)]), allow_token_ids=True) as (_, client):
        wanted = vectors(post(client, input=texts))
        assert np.abs(vectors(post(client, input=[texts[0], *ids[1:]])) - wanted).max() < 1e-5
        assert np.abs(vectors(post(client, input=ids[1])) - wanted[1]).max() < 1e-5
        assert np.abs(wanted[2] - pages.embed(texts=[TEXTS[2]])).max() > 1e-2, "a special token is left out"
        for wrong, param, got in (
            ([*ids[0], vocab], f"input[{len(ids[0])}]", vocab),
            ([ids[0], [-1]], "input[1][0]", -1),
        ):
            error = post(client, input=wrong).json()["error"]
            assert (error["code"], error["param"]) == ("invalid_value", param)
            assert f"no token {got}; expected: 0 to {vocab - 1}; fix: encode with this model's" in error["message"]
            assert error["message"].endswith("(POST /tokenize with add_special_tokens false)")


def test_token_ids_that_the_tokenizer_lacks_are_refused(pages: Session) -> None:
    """Rows of a padded vocabulary: they decode to nothing, and beside others would be left out in silence."""
    tokenizer = pages.encoder.tokenizer
    lacks = tokenizer.get_vocab_size()
    assert tokenizer.id_to_token(lacks) is None
    check_ids([0, lacks], "tokens", lacks + 8)
    with pytest.raises(ApiError, match=f"no token {lacks}; expected: one that its tokenizer has") as refused:
        check_ids([0, lacks], "input[0]", lacks + 8, tokenizer)
    assert refused.value.param == "input[0][1]"
    letters = Tokenizer(BPE({letter: place for place, letter in enumerate(ByteLevel.alphabet())}, []))
    letters.pre_tokenizer, letters.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    assert text_of(letters, letters.encode("aé").ids[:-1], special=True) == "a\ufffd"


def test_paths_of_answers_refuse_a_model_that_embeds(asked: Client) -> None:
    messages = {"messages": [{"role": "user", "content": "Hello"}]}
    for path, body in (
        ("/v1/chat/completions", messages),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/responses", {"input": "Hello"}),
    ):
        error = post(asked, path, **body).json()["error"]
        assert error["param"] == "model" and "POST /v1/embeddings" in error["message"], error


def test_others_take_turns_with_a_long_request(
    running: tuple[Server, Client], pages: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of more inputs than the queue has places holds one of them, and a question beside it is answered first."""
    server, client = running
    prefill = pages.default.graphs.prefill
    monkeypatch.setattr(pages.default.graphs, "prefill", lambda *asks: (sleep(0.02), prefill(*asks))[1])
    done: list[str] = []
    began = threading.Event()
    server.engine.trace = []

    def long() -> None:
        began.set()
        reply = post(client, input=[f"page {number}" for number in range(40)])
        assert len(vectors(reply)) == 40
        done.append("long")

    thread = threading.Thread(target=long)
    thread.start()
    began.wait()
    while len(server.engine.trace) < 4:  # some have run
        sleep(0.001)
    assert post(client, input="one more").status == 200
    done.append("short")
    thread.join()
    server.engine.trace = None
    assert done == ["short", "long"]


def test_who_is_gone_is_not_embedded_for(running: tuple[Server, Client]) -> None:
    """Giving one of a request's jobs up gives all of them up, those that are not queued yet too."""
    from luvc_export.serve.engine.jobs import Job

    server, _ = running
    session = server.models.by_name["pages"].session
    request = session.prepare(prompt="x")
    jobs = [Job(session.default, request, Any, 0, 1, lambda event: None) for _ in range(3)]  # type: ignore[arg-type]
    for job in jobs:
        job.beside = jobs
    jobs[0].cancel()
    assert all(job.cancelled for job in jobs)


#: Of what is honoured, a request that it changes the answer to.
CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model": "none"},
    "input": {"input": "y"},
    "messages": {"input": None, "messages": [{"role": "user", "content": "y"}]},
    "encoding_format": {"encoding_format": "base64"},
    "dimensions": {"dimensions": 16},
}


@pytest.mark.parametrize("row", [row for row in TABLE if row["path"] == "/v1/embeddings"], ids=lambda row: row["name"])
def test_each_row_is_as_the_table_says(row: dict[str, Any], asked: Client) -> None:
    plain, name = post(asked, input="x").json()["data"], row["name"]
    *holders, field = name.split(".")
    if row["is"] == "honoured":
        assert post(asked, **{"input": "x", **CHANGES[name]}).json().get("data") != plain
    elif holders:
        part = {"type": "text", "text": "x", **({field: "x"} if len(holders) > 1 else {})}
        message = {"role": "user", "content": [part], **({field: "x"} if len(holders) == 1 else {})}
        error = post(asked, messages=[message]).json()["error"]
        assert error["code"] == "unsupported_parameter" and error["param"] == name.replace("[]", "[0]")
    elif row["is"] == "refused":
        error = post(asked, input="x", **{name: {"never": "heard"}}).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name) and row["why"] in error["message"]
        for nothing in row["asks_for_nothing"]:
            assert post(asked, input="x", **{name: nothing}).json()["data"] == plain
    else:
        reply = post(asked, input="x", **{name: "x"})
        assert reply.json()["data"] == plain and "x-luvc-ignored" not in reply.headers
