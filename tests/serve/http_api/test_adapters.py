"""Adapters as models: named, loaded and let go while the server answers, and kept apart."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import Client, Reply, user
from running import serving

from luvc_export.errors import UsageError
from luvc_export.runtime.session import Session
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.serve.models import Models, open_models
from luvc_export.serve.server import Server

PICTURE = np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def adapted(lora: Path) -> Iterator[tuple[Server, Client]]:
    folders = {name: lora / name for name in ("loud", "terse")}
    models = open_models([str(lora / "slots")], SessionOptions(backend="cpu", threads=1, lora=folders))
    with serving(models, lora_dirs=(lora,), greedy=True) as served:
        yield served


def chat(model: str, text: str = "left of 5", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": user(text, PICTURE), "max_tokens": 4, **fields}


def text_of(client: Client, model: str, text: str = "left of 5") -> str:
    answer = client.chat(**chat(model, text))
    assert answer.status == 200, answer.json()
    return str(answer.json()["choices"][0]["message"]["content"])


def alone(lora: Path, name: str | None) -> str:
    session = Session(lora / "slots", "cpu", threads=1, lora={one: lora / one for one in ("loud", "terse")})
    return session.generate(PICTURE, "left of 5", adapter=name, max_new_tokens=4, greedy=True).text


def post(client: Client, path: str, body: Any) -> Reply:
    return client.call("POST", path, json.dumps(body).encode())


def test_adapters_are_models(adapted: tuple[Server, Client]) -> None:
    listed = adapted[1].call("GET", "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["slots", "slots:loud", "slots:terse"]
    assert [model.get("parent") for model in listed] == [None, "slots", "slots"]
    assert listed[1]["luvc"]["adapter"]["rank"] == 4 and len(listed[1]["luvc"]["adapter"]["sha256"]) == 64


def test_prefixes_of_adapters_are_kept_apart(adapted: tuple[Server, Client], lora: Path) -> None:
    """One picture and one beginning of a prompt: what the LLM made of them is each adapter's own."""
    server, client = adapted
    want = {name: alone(lora, name) for name in (None, "loud", "terse")}
    assert len(set(want.values())) > 1
    before = server.cache.counts.hits["prefix"]
    for _ in range(2):
        for name, text in want.items():
            assert text_of(client, "slots" if name is None else f"slots:{name}") == text
    assert server.cache.counts.hits["prefix"] == before + 3, "each finds its own"
    assert text_of(client, "loud") == want["loud"], "vLLM's clients say the adapter's name alone"


def test_answers_of_several_adapters_grow_together(adapted: tuple[Server, Client]) -> None:
    names = ["slots", "slots:loud", "slots:terse", "slots:loud"]
    want = [text_of(adapted[1], name) for name in names]
    seen: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda row=row, name=name: seen.update({row: text_of(adapted[1], name)}))
        for row, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [seen[row] for row in range(len(names))] == want


def test_load_and_unload(adapted: tuple[Server, Client], lora: Path) -> None:
    _, client = adapted
    assert client.chat(**chat("slots:odd")).status == 404
    reply = post(client, "/v1/load_lora_adapter", {"lora_name": "odd", "lora_path": str(lora / "odd")})
    assert (reply.status, reply.body) == (200, b"Success: LoRA adapter 'odd' added successfully.")
    assert text_of(client, "slots:odd") == text_of(client, "odd")
    again = post(client, "/v1/load_lora_adapter", {"lora_name": "odd", "lora_path": str(lora / "odd")})
    assert again.status == 400 and "loaded already" in again.json()["error"]["message"]
    gone = post(client, "/v1/unload_lora_adapter", {"lora_name": "odd"})
    assert (gone.status, gone.body) == (200, b"Success: LoRA adapter 'odd' removed successfully.")
    assert client.chat(**chat("slots:odd")).status == 404
    assert post(client, "/v1/unload_lora_adapter", {"lora_name": "odd"}).status == 404
    assert [model["id"] for model in client.call("GET", "/v1/models").json()["data"]] == [
        "slots",
        "slots:loud",
        "slots:terse",
    ]


@pytest.mark.parametrize(
    ("name", "path", "status", "said_"),
    [
        ("x", "/", 403, "--lora-dir"),
        ("x", "{}/../..", 403, "--lora-dir"),
        ("x", "{}/nowhere", 403, "--lora-dir"),
        ("x", "{}/plain", 400, "not a LoRA adapter"),
        ("a:b", "{}/odd", 400, "no name of an adapter"),
        ("x", 3, 400, "lora_path is a text"),
        ("x", "a\0b", 400, "lora_path is a text"),
        (None, "{}/odd", 400, "you must provide lora_name"),
    ],
)
def test_what_is_not_loaded(
    adapted: tuple[Server, Client], lora: Path, name: Any, path: Any, status: int, said_: str
) -> None:
    address = path.format(lora) if isinstance(path, str) else path
    answer = post(adapted[1], "/v1/load_lora_adapter", {"lora_name": name, "lora_path": address})
    assert answer.status == status and said_ in answer.json()["error"]["message"]


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_is_a_link_out_of_the_folder_is_not_read(
    adapted: tuple[Server, Client], lora: Path, file: str, tmp_path: Path
) -> None:
    """An error told a client what a field of the file held. Links that stay below are a hub's, and are followed."""
    folder, secret = lora / f"linked-{file}", tmp_path / "secret.json"
    shutil.rmtree(folder, ignore_errors=True)  # of a run before: the folder is kept between runs
    folder.mkdir()
    secret.write_text('{"peft_type": "a secret"}')
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).symlink_to(secret if name == file else lora / "odd" / name)
    answer = post(adapted[1], "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(folder)})
    message = answer.json()["error"]["message"]
    assert answer.status == 403 and "a file of it, is below none" in message and "secret" not in message
    (folder / file).unlink()
    (folder / file).symlink_to(lora / "odd" / file)
    assert post(adapted[1], "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(folder)}).status == 200
    assert post(adapted[1], "/v1/unload_lora_adapter", {"lora_name": "x"}).status == 200


def test_a_server_without_a_folder_loads_none(models: Models, client: Client, lora: Path) -> None:
    for path in ("load", "unload"):
        answer = post(client, f"/v1/{path}_lora_adapter", {"lora_name": "odd", "lora_path": str(lora / "odd")})
        assert answer.status == 403 and "serve with --lora-dir" in answer.json()["error"]["message"]
    with pytest.raises(UsageError, match="no slots for adapters"):
        models.load_adapter("odd", lora / "odd")
    assert [*models.by_name] == ["demo", "demo#none"]
