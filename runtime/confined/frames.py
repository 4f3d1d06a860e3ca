"""What goes between a process and its helper: a length, JSON, a length, bytes; and the helper's ends of the pipes."""

from __future__ import annotations

import json
import os
import struct
from typing import IO, Any

_LENGTH = struct.Struct("<QQ")
#: Bytes of one message; 32 Mi pixels take 96 MiB, what a JPEG may have 384.
_MOST = 2**30


def send(file: IO[bytes], message: dict[str, Any], data: bytes | memoryview = b"") -> None:
    """Write a message."""
    text = json.dumps(message).encode("ascii")
    file.write(_LENGTH.pack(len(text), len(data)) + text)
    if data:
        file.write(data)
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read a message.

    Raises:
        EOFError: The other side is gone.
        ValueError: This is no message.
    """
    sizes = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    if sum(sizes) > _MOST:
        raise ValueError(f"a message of {sum(sizes)} bytes")
    header = json.loads(_exactly(file, sizes[0]))
    return header, _exactly(file, sizes[1])


def own_pipes(silent: bool = False) -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output of a helper for messages alone.

    What a library prints goes to standard error, or nowhere where the helper is to be ``silent``.
    """
    asked, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing if silent else 2, 1)
    if silent:
        os.dup2(nothing, 2)
    return asked, replies


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data
