"""What addresses of pictures may reach: nothing that only this machine can."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.media.addresses import Addresses, data_bytes
from luvc_export.serve.media.fetching import Fetcher, is_public, resolve
from luvc_export.serve.options import ServeOptions


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


class Handler(BaseHTTPRequestHandler):
    """A host on the list that misbehaves by path."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/good.png")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/headers":
            with contextlib.suppress(OSError):
                for number in range(60):
                    self.send_header(f"x-{number}", "y")
                    self.flush_headers()
                    threading.Event().wait(0.1)
        self.end_headers()
        if self.path == "/endless":
            try:
                for _ in range(1000):
                    self.wfile.write(bytes(65536))
            except OSError:
                return
        elif self.path == "/slow":
            self.wfile.write(PNG[:10])
            threading.Event().wait(3)
        elif self.path == "/drop-by-drop":
            try:
                for _ in range(60):
                    self.wfile.write(b"x")
                    threading.Event().wait(0.1)
            except OSError:
                return
        elif self.path.startswith("/good.png"):
            self.wfile.write(PNG + self.headers["Host"].encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


HOSTS = frozenset(["pictures.example"])
#: Takes the name for this machine, and this machine for a public one.
NEAR = Fetcher(lambda name, port: ["127.0.0.1"], lambda address: True, seconds=1, most=100_000)


def refusal_of(call: object, *arguments: object) -> str:
    with pytest.raises(ApiError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert (caught.value.status, caught.value.param) == (400, "x")
    return caught.value.message


def test_a_host_on_the_list_is_fetched_by_its_name(host: int) -> None:
    fetched = NEAR.get(f"http://pictures.example:{host}/good.png?a=b", HOSTS, "x")
    assert fetched == PNG + f"pictures.example:{host}".encode()


@pytest.mark.parametrize(
    ("path", "words"),
    [("redirect", "a redirect, which is not followed"), ("missing", "gave 404"), ("endless", "too large"),
     ("slow", "cannot be fetched|took too long"), ("drop-by-drop", "took too long"),
     ("headers", "cannot be fetched|took too long")],
)  # fmt: skip
def test_what_a_host_does_wrong_is_said(host: int, path: str, words: str) -> None:
    import re

    begin = time.monotonic()
    assert re.search(words, refusal_of(NEAR.get, f"http://pictures.example:{host}/{path}", HOSTS, "x"))
    assert time.monotonic() - begin < 3  # of a second; each byte of a slow host began it anew


def test_a_resolver_and_a_handshake_end_in_time_too() -> None:
    slow = replace(NEAR, resolver=lambda name, port: threading.Event().wait(8) or [])  # type: ignore[func-returns-value]
    begin = time.monotonic()
    assert "cannot be fetched" in refusal_of(slow.get, "http://pictures.example/x", HOSTS, "x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://pictures.example:{silent.getsockname()[1]}/x"
        assert "cannot be fetched" in refusal_of(NEAR.get, url, HOSTS, "x")
    assert time.monotonic() - begin < 6


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "ff02::1", "fec0::1", "3fff::1",
     "3fff:fff:ffff::1", "192.0.0.8", "192.88.99.1", "nonsense"],
)  # fmt: skip
def test_addresses_that_only_this_machine_reaches_are_not_public(address: str) -> None:
    assert not is_public(address)
    fetcher = Fetcher(lambda name, port: ["93.184.216.34", address])
    assert "not a public one" in refusal_of(fetcher.get, "http://pictures.example/x", HOSTS, "x")


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "3ffe::1", "64:ff9b::808:808"])
def test_others_are(address: str) -> None:
    assert is_public(address)


def test_the_address_that_was_checked_is_the_one_connected_to(host: int) -> None:
    """A name that resolves to something else the second time gains nothing: there is no second time."""
    asked: list[str] = []

    def changing(name: str, port: int) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    fetcher = replace(NEAR, resolver=changing)
    assert fetcher.get(f"http://pictures.example:{host}/good.png", HOSTS, "x").startswith(PNG)
    assert asked == ["pictures.example"]


@pytest.mark.parametrize(
    "url",
    ["http://other.example/x", "http://pictures.example.evil/x", "http://pictures.example@evil.example/x",
     "http://user:pass@pictures.example/x", "http://evil.example\\@pictures.example/x", "http://[::1/x", "http://:80/",
     "http://pictures.example:99999/", "http://pictures.example/a b", "http://pictures.example/\r\nX: y", "http://",
     "http://pictures\u3002example/", "http://169.254.169.254/latest/meta-data", "http://2130706433/",
     "http://0x7f.1/"],
)  # fmt: skip
def test_hosts_off_the_list_are_not_even_resolved(url: str) -> None:
    def never(name: str, port: int) -> list[str]:
        raise AssertionError(name)

    assert "not on the list" in refusal_of(Fetcher(never).get, url, HOSTS, "x")


def test_a_name_for_this_machine_is_refused_by_the_real_resolver() -> None:
    assert "127.0.0.1" in resolve("localhost", 80) or "::1" in resolve("localhost", 80)
    assert "not a public one" in refusal_of(Fetcher().get, "http://localhost:1/x", frozenset(["localhost"]), "x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "open" / "deep").mkdir(parents=True)
    for name in ("open/good.png", "open/deep/a b.png", "secret.png", "open-beside.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "open" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "open" / "inside.png").symlink_to(tmp_path / "open" / "good.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "good"),
    [("open/good.png", True), ("open/deep/a%20b.png", True), ("open/inside.png", True), ("open/out.png", False),
     ("secret.png", False), ("open/../secret.png", False), ("open/%2e%2e/secret.png", False),
     ("open-beside.png", False), ("open", False), ("open/gone.png", False), ("open/good.png%00", False),
     ("open/good.png?x", False)],
)  # fmt: skip
def test_files_below_the_folder_alone(folder: Path, name: str, good: bool) -> None:
    addresses = Addresses(ServeOptions(media_dirs=((folder / "open").resolve(),)))
    url = f"file://{folder}/{name}"
    if good:
        assert addresses.read(url, "x") == PNG
    else:
        assert refusal_of(addresses.read, url, "x") == "there is no such file below the folders of --media-dir"


def test_files_of_a_request_have_bytes_together(folder: Path) -> None:
    """Sixteen of 32 MiB each were read for a request of a kilobyte."""
    addresses = Addresses(ServeOptions(media_dirs=((folder / "open").resolve(),), max_body=len(PNG)))
    url = f"file://{folder}/open/good.png"
    for _ in range(2):
        own = addresses.of_one_request()
        assert [own.read(url, "x") for _ in range(4)] == [PNG] * 4
        words = f"too large together; expected: at most {4 * len(PNG):,} bytes (4 times --max-body); fix: name fewer"
        assert words in refusal_of(own.frames, url, "x")


def test_devices_other_hosts_and_relative_names_are_no_files(folder: Path) -> None:
    addresses = Addresses(ServeOptions(media_dirs=(Path("/"),)))
    for url in ("file:///dev/zero", f"file://evil{folder}/secret.png", "file:secret.png", "file://"):
        assert "no such file" in refusal_of(addresses.read, url, "x")
    assert "no such file" in refusal_of(Addresses(ServeOptions()).read, f"file://{folder}/secret.png", "x")


def test_data_addresses() -> None:
    one, two = (base64.b64encode(part).decode() for part in (b"one", b"two"))
    assert data_bytes(f"data:video/jpeg;base64,{one},{two}", "x") == [b"one", b"two"]
    for url, words in (("data:image/png;base64,", "empty"), ("data:image/png;base64,a=b", "not base64"),
                       ("data:image/png", "is data:image"), (f"data:image/png,{one}", "is data:image")):  # fmt: skip
        assert words in refusal_of(data_bytes, url, "x")
    assert "fetches nothing" in refusal_of(Addresses(ServeOptions()).read, "https://pictures.example/", "x")
