"""How many pixels may be decoded at once: counted from the headers before anything is decompressed.

Sixteen black pictures of 32 million pixels are 500 KB in a body and 2.4 GB in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from luvc_export.serve.http.api_errors import ApiError, bad_request

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
