"""An address in a request -> bytes, by the rules of docs/serving.md. What they hold is for decoders to find out.

How many pixels may be decoded at once is counted from the headers before anything is decompressed: sixteen black
pictures of 32 million pixels are 500 KB in a body and 2.4 GB in memory.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from time import monotonic
from urllib.parse import unquote, urlsplit

from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import LuvcError
from luvc_export.serve.http.api_errors import ApiError, bad_request, picture_too_large
from luvc_export.serve.media.fetching import Fetcher
from luvc_export.serve.options import ServeOptions

#: Times ``--max-body`` that the files of one request, and what is fetched for it, may have together.
TOGETHER = 4


class Addresses:
    """Reads what addresses name.

    Args:
        options: Which files and hosts are open.
        fetcher: Fetches from hosts.
    """

    def __init__(self, options: ServeOptions, fetcher: Fetcher | None = None) -> None:
        self._folders, self._hosts = options.media_dirs, options.media_hosts
        self._most, self._left = options.max_body, sys.maxsize
        self._fetcher = fetcher or Fetcher(most=self._most)

    def of_one_request(self) -> Addresses:
        """The same for one request: files and what is fetched have ``TOGETHER`` times the bytes of one together."""
        own = copy(self)
        own._left = TOGETHER * self._most
        return own

    def read(self, url: str, param: str) -> bytes:
        """The bytes behind ``url``; ``param`` names the field in errors.

        Raises:
            ApiError: 400; the message is the same for a file that is not there and one that may not be read.
        """
        kind = url[:8].partition(":")[0].lower()
        if kind == "data":
            return data_bytes(url, param)[0]
        if kind == "file":
            return self._file(url, param)
        if kind in ("http", "https"):
            return self._fetched(url, param)
        raise bad_request(
            "a picture is named by a data:, file: or http(s): address", param=param, code="invalid_image_url"
        )

    def frames(self, url: str, param: str) -> list[bytes]:
        """One item for a film or an animated picture, several for ``data:video/jpeg;base64,FRAME,FRAME``.

        Raises what ``read`` raises.
        """
        if url[:5].lower() == "data:":
            return data_bytes(url, param)
        return [self.read(url, param)]

    def _file(self, url: str, param: str) -> bytes:
        refused = bad_request(
            "there is no such file below the folders of --media-dir", param=param, code="invalid_image_url"
        )
        try:
            parts = urlsplit(url)
            name = unquote(parts.path, errors="strict")
            real = Path(os.path.realpath(name, strict=True))
        except (ValueError, OSError) as error:
            raise refused from error
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not name.startswith("/"):
            raise refused
        if not any(real.is_relative_to(folder) for folder in self._folders):
            raise refused
        try:
            with open_regular(real) as file:
                data: bytes = file.read(self._most + 1)
        except (OSError, LuvcError) as error:
            raise refused from error
        if len(data) > self._most:
            raise picture_too_large(self._most, param)
        return self._counted(data, param)

    def _fetched(self, url: str, param: str) -> bytes:
        if not self._hosts:
            what = "this server fetches nothing: send the picture as a data: address"
            raise bad_request(what, param=param, code="invalid_image_url")
        return self._counted(self._fetcher.get(url, self._hosts, param), param)

    def _counted(self, data: bytes, param: str) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            most = f"{TOGETHER * self._most:,} bytes ({TOGETHER} times --max-body)"
            message = f"the pictures and films that are named are too large together; expected: at most {most}"
            raise bad_request(f"{message}; fix: name fewer, or smaller ones", param, "invalid_image_url")
        return data


def data_bytes(url: str, param: str) -> list[bytes]:
    """What a ``data:`` address holds: base64, several with commas between; lines may be broken.

    Raises:
        ApiError: It is not base64, or empty.
    """
    head, comma, body = url[5:].partition(",")
    if not comma or head.split(";")[-1].strip().lower() != "base64":
        what = "a data: address is data:image/png;base64,..."
        raise bad_request(what, param=param, code="invalid_image_url")
    try:
        parts = [base64.b64decode("".join(part.split()), validate=True) for part in body.split(",")]
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"this is not base64: {error}", param=param, code="invalid_base64") from error
    if not all(parts):
        raise bad_request("the data: address is empty", param=param, code="invalid_base64")
    return parts


#: Pixels of all pictures and frames of a request, and of all requests that are being read: 384 MB as RGB.
MOST = 2**27
#: Seconds a request waits for others' pictures.
PATIENCE = 60.0


class PixelBudget:
    """Pixels that requests share. Threads may share it.

    Args:
        most: Pixels, of one request and of all together.
        patience: Seconds to wait.
    """

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self._most, self._patience, self._held = most, patience, 0
        self._freed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels while the block runs; all of a request's at once, so that no two wait for each other.

        Raises:
            ApiError: 400 where one request has more than there are, 429 where others hold them for too long.
        """
        if pixels > self._most:
            got = f"{pixels:,} pixels"
            raise bad_request(
                f"the pictures are too large together: {got}; expected: at most {self._most:,}",
                param="messages",
                code="images_too_large",
            )
        deadline = monotonic() + self._patience
        with self._freed:
            while self._held + pixels > self._most:
                if not self._freed.wait(max(0.0, deadline - monotonic())):
                    message = "too many large pictures at once"
                    raise ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": "2"})
            self._held += pixels
        try:
            yield
        finally:
            with self._freed:
                self._held -= pixels
                self._freed.notify_all()
