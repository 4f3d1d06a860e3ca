"""What ``luvc-export serve`` was told."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from luvc_export.errors import UsageError
from luvc_export.runtime.media.picture_limits import MAX_JPEG_PIXELS, MAX_PIXELS, allowed

_SIZE = re.compile(r"(\d+)\s*([KMG]i?B|B)?", re.IGNORECASE)
_POWERS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
#: A key of fewer characters can be tried out.
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class ServeOptions:
    """Limits and permissions.

    Args:
        host: Address to listen at.
        port: Port; 0 for a free one.
        api_key: What clients must send as ``Authorization: Bearer``; None lets everybody in.
        insecure: Listen beyond loopback without a key.
        media_dirs: Folders below which ``file:`` addresses are read, resolved.
        media_hosts: Hosts that pictures are fetched from, lower case.
        allow_hosts: Names clients may call this server by, besides ``localhost`` and addresses.
        allow_origins: Origins whose pages may call, such as ``https://example.org``.
        queue: Requests that wait at most.
        rows: Answers that grow at once.
        max_body: Bytes of a request, and of a picture it names.
        max_images: Pictures of a request, frames of a video not counted.
        image_cache: Bytes kept of encoded pictures; 0 for none.
        greedy: Where a request says nothing, answers are greedy, whatever a model's makers meant.
        strict: Refuse fields that nobody has heard of.
        stream_timeout: Seconds that a client may take nothing of an answer before it is cut and its row is free.
        trusted_proxies: Addresses whose ``X-Forwarded-For`` says who asks.
        lora_dirs: Folders below which clients may name adapters to load, resolved; none where they may load none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    insecure: bool = False
    media_dirs: tuple[Path, ...] = ()
    media_hosts: frozenset[str] = frozenset()
    allow_hosts: frozenset[str] = frozenset()
    allow_origins: frozenset[str] = frozenset()
    queue: int = 16
    rows: int = 8
    max_body: int = 32 * 2**20
    max_images: int = 16
    image_cache: int = 256 * 2**20
    greedy: bool = False
    strict: bool = False
    lora_dirs: tuple[Path, ...] = ()
    stream_timeout: float = 30.0
    trusted_proxies: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.api_key is None and not self.insecure:
            raise UsageError(
                "everybody who reaches this machine could use the model",
                where=f"--host {self.host}",
                got="no key",
                expected="an address of this machine alone (127.0.0.1), or a key",
                fix="--api-key-file FILE, or --insecure where the network is trusted",
            )

    def limits(self) -> dict[str, int]:
        """What a request is bounded by, for clients to read."""
        limits = {"body_bytes": self.max_body, "picture_bytes": self.max_body, "pictures": self.max_images}
        pixels = allowed()
        return {**limits, "picture_pixels": pixels or MAX_PIXELS, "jpeg_pixels": pixels or MAX_JPEG_PIXELS}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def byte_size(text: str, flag: str) -> int:
    """Parse ``32MiB``, ``256M``, ``1GiB`` or a plain number of bytes.

    Raises:
        UsageError: It is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError("this is no size", where=flag, got=repr(text), expected="a number of bytes, or such as 32MiB")
    return int(match[1]) * _POWERS[(match[2] or "")[:1].lower()]


def read_key(path: Path) -> str:
    """The key in a file: its first line.

    Raises:
        UsageError: The file cannot be read, or its first line is no key.
    """
    try:
        with path.open(encoding="ascii") as file:
            key = file.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise UsageError("the key cannot be read", where=f"--api-key-file {path}", got=reason) from error
    if len(key) < _SHORTEST_KEY or not key.isprintable() or " " in key:
        raise UsageError(
            "this is no key",
            where=f"--api-key-file {path}",
            got=f"{len(key)} characters",
            expected=f"at least {_SHORTEST_KEY}, without blanks",
            fix="python3 -c 'import secrets; print(secrets.token_urlsafe())' > FILE",
        )
    return key
