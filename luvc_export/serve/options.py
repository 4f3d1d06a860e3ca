"""What ``luvc-export serve`` was told."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luvc_export.core.options import option
from luvc_export.errors import UsageError

_SIZE = re.compile(r"(\d+)\s*([KMG]i?B|B)?", re.IGNORECASE)
_POWERS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
#: A key of fewer characters can be tried out.
_SHORTEST_KEY = 16


def byte_size(text: str, flag: str) -> int:
    """Parse ``32MiB``, ``256M``, ``1GiB`` or a plain number of bytes.

    Raises:
        UsageError: It is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError("this is no size", where=flag, got=repr(text), expected="a number of bytes, or such as 32MiB")
    return int(match[1]) * _POWERS[(match[2] or "")[:1].lower()]


def _folders(paths: list[Path] | None, flag: str) -> tuple[Path, ...]:
    """Existing folders, resolved."""
    for path in paths or ():
        if not path.is_dir():
            raise UsageError("there is no such folder", where=f"{flag} {path}")
    return tuple(path.resolve() for path in paths or ())


def _lower(names: list[str] | None) -> frozenset[str]:
    return frozenset(name.lower() for name in names or ())


def _words(text: str, flag: str, read: Any = lambda names: frozenset(names or ())) -> Any:
    return option(frozenset, text, flag, written=list[str] | None, read=read)


def _below(text: str, flag: str) -> Any:
    return option((), text, flag, written=list[Path] | None, read=partial(_folders, flag=flag))


def _bytes(shown: str, text: str, flag: str) -> Any:
    return option(byte_size(shown, flag), text, flag, written=str, shown=shown, read=partial(byte_size, flag=flag))


@dataclass(frozen=True)
class ServeOptions:
    """Limits and permissions of a server.

    Raises:
        UsageError: It would listen beyond this machine without a key, or there is no such ``tool_parser``.
    """

    host: str = option("127.0.0.1", "Address to listen at.")
    port: int = option(8000, "Port; 0 takes a free one.", least=0, most=65535)
    api_key: str | None = option(
        None,
        "File with the key that clients must send.",
        "--api-key-file",
        written=Path | None,
        read=lambda path: path and read_key(path),
    )
    insecure: bool = option(False, "Listen beyond this machine without a key: everybody may ask.")
    lora_dirs: tuple[Path, ...] = _below(
        "Let clients load adapters below this folder (/v1/load_lora_adapter); repeat.", "--lora-dir"
    )
    media_dirs: tuple[Path, ...] = _below("Read file: addresses below this folder; repeat.", "--media-dir")
    media_hosts: frozenset[str] = _words("Fetch pictures from this host; repeat.", "--allow-media-host", _lower)
    allow_hosts: frozenset[str] = _words("Name clients may call the server by; repeat.", "--allow-host", _lower)
    allow_origins: frozenset[str] = _words("Origin whose pages may call (CORS); repeat.", "--allow-origin")
    queue: int = option(16, "Requests that wait; more are told 429.", least=1, most=4096)
    queue_wait: float = option(
        2.0,
        "Seconds that as many more wait for a place before they are told 429.",
        least=0,
        most=60,
    )
    rows: int = option(8, "Answers that grow at once.", least=1, most=64)
    max_body: int = _bytes("32MiB", "Size of a request, and of a picture it names.", "--max-body")
    max_images: int = option(16, "Pictures and videos of a request.", least=0, most=1024)
    image_cache: int = _bytes(
        "256MiB", "Memory for encoded pictures and their keys and values; 0 for none.", "--image-cache"
    )
    stored_responses: int = _bytes(
        "64MiB", "Memory for responses that clients go on with (previous_response_id).", "--stored-responses"
    )
    no_store: bool = option(False, "Store no responses.")
    stream_timeout: float = option(30.0, "Seconds after which an unread answer is cut.", least=1, most=3600)
    trusted_proxies: frozenset[str] = _words("Address whose X-Forwarded-For says who asks; repeat.", "--trusted-proxy")
    greedy: bool = option(False, "What a request leaves open is greedy, not as the model's makers meant it.")
    tool_parser: str | None = option(None, "How the model writes calls; default: seen by its chat template.")
    allow_token_ids: bool = option(False, "Inputs of vectors may be token ids, which are read as this model's.")
    strict: bool = option(False, "Refuse fields of requests that nobody here has heard of (/v1/fields).")

    def __post_init__(self) -> None:
        if self.tool_parser is not None:
            from luvc_export.serve.tools.detection import form_named

            form_named(self.tool_parser)
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
        from luvc_export.runtime.media.picture_limits import MAX_JPEG_PIXELS, MAX_PIXELS, allowed

        limits = {"body_bytes": self.max_body, "picture_bytes": self.max_body, "pictures": self.max_images}
        pixels = allowed()
        return {**limits, "picture_pixels": pixels or MAX_PIXELS, "jpeg_pixels": pixels or MAX_JPEG_PIXELS}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
