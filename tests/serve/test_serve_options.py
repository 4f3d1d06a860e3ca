"""Options: what is refused before anything listens, and the process's end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from calling import Client, user
from typer.testing import CliRunner

from luvc_export.bundle.folder import Bundle
from luvc_export.cli import app
from luvc_export.demo.questions import cases
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.serve.models import Models, open_models, split_name
from luvc_export.serve.options import ServeOptions, byte_size, is_loopback, read_key
from luvc_export.serve.server import Server

OPTIONS = SessionOptions(backend="cpu", threads=1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.evil.example"])
def test_beyond_this_machine_a_key_is_needed(host: str) -> None:
    with pytest.raises(
        UsageError, match=r"everybody who reaches this machine(.|\n)*--api-key-file FILE, or --insecure"
    ):
        ServeOptions(host=host)
    assert ServeOptions(host=host, api_key="sk-0123456789abcdef").host == host
    assert ServeOptions(host=host, insecure=True).insecure


def test_this_machine_alone() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.9.9.9")] == [True] * 5
    assert not is_loopback("0.0.0.0")


@pytest.mark.parametrize(("text", "size"), [("32MiB", 2**25), ("1GiB", 2**30), ("7", 7), ("16 kB", 2**14), ("0", 0)])
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text, "--max-body") == size


@pytest.mark.parametrize("text", ["", "-1", "1.5MiB", "many", "1TiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="this is no size"):
        byte_size(text, "--max-body")


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-0123456789abcdef\nsecond line\n")
    assert read_key(file) == "sk-0123456789abcdef"
    for bad in ("short", "with blanks in the middle", "\u00e9" * 20):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(UsageError, match=r"this is no key|cannot be read"):
            read_key(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_key(tmp_path / "gone")


def test_names_of_models(demo_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    folder.symlink_to(demo_bundle.folder)
    served = open_models([str(folder), f"{folder}#even"], OPTIONS)
    assert {name: one.session.plan_name for name, one in served.by_name.items()} == {
        "qwen": demo_bundle.manifest.default_plan,
        "qwen#even": "even",
    }
    assert [one.session.bundle is served.by_name["qwen"].session.bundle for one in served.by_name.values()] == [
        True
    ] * 2
    with pytest.raises(UsageError, match="two models have one name"):
        open_models([str(folder), str(folder)], OPTIONS)
    with pytest.raises(UsageError, match="known: even, none, thirds"):
        open_models([f"{folder}#nine"], OPTIONS)
    strange = tmp_path / "a#b"
    strange.mkdir()
    assert split_name(str(strange)) == (strange, "a#b", None)


def test_a_port_that_is_taken(models: Models) -> None:
    first = Server(ServeOptions(port=0), models, warm=False).listen()
    first.listen()
    with first, pytest.raises(UsageError, match="cannot listen there"):
        Server(ServeOptions(port=first.getsockname()[1]), models, warm=False).listen()


def test_it_says_that_it_answers_once_it_does(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while its models load, though sockets are read by then."""
    loaded, answering = threading.Event(), threading.Event()
    monkeypatch.setattr(models, "warm_up", lambda: loaded.wait(60))
    server = Server(ServeOptions(port=0), models)
    listening = server.listen()
    client = Client("127.0.0.1", listening.getsockname()[1])
    thread = threading.Thread(target=server.run, args=(listening, answering.set))
    thread.start()
    try:
        assert client.call("GET", "/ready").status == 503 and not answering.wait(0.2)
        loaded.set()
        assert answering.wait(60) and client.call("GET", "/ready").status == 200
    finally:
        loaded.set()
        server.stop()
        thread.join(60)


def started(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "luvc_export", "serve", f"{folder}#even", "--backend", "cpu", "--threads", "1"]
    words += ["--port", "0", "--json", "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_a_process_answers_and_sigterm_ends_it_with_0(demo_bundle: Bundle) -> None:
    case = next(cases("heldout", 1, 0, ("where_is",)))
    with started(demo_bundle.folder) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        client = Client("127.0.0.1", int(ready["address"].rpartition(":")[2]))
        name = ready["models"][0]
        try:
            assert client.chat(model=name, messages=user(case.prompt, *case.images)).text == case.answer
        finally:
            process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")


def test_refusals_of_the_command(demo_bundle: Bundle, tmp_path: Path) -> None:
    for options, words in (
        (["--host", "0.0.0.0"], "everybody who reaches this machine"),
        (["--media-dir", str(tmp_path / "gone")], "there is no such folder"),
        (["--max-body", "much"], "this is no size"),
    ):
        refused = CliRunner().invoke(app, ["serve", str(demo_bundle.folder), "--json", *options])
        assert isinstance(refused.exception, UsageError) and words in str(refused.exception)
