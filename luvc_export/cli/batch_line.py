"""How far a batch is, as one line: drawn over itself on a terminal, now and then elsewhere."""

from __future__ import annotations

from time import monotonic
from typing import TextIO

from luvc_export.batch.run import BatchProgress

#: Seconds between two lines: on a terminal, and in a log.
_DRAW, _LOG = 0.2, 30.0


class BatchLine:
    """Draws progress.

    Args:
        stream: Where.
        quiet: Draw nothing.
    """

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet
        self._drawn, self._width, self._terminal = 0.0, 0, stream.isatty()
        self._last: BatchProgress | None = None

    def __call__(self, done: BatchProgress) -> None:
        """Draw, unless something was drawn a moment ago."""
        self._last = done
        if not self._quiet and monotonic() - self._drawn >= (_DRAW if self._terminal else _LOG):
            self._draw()

    def close(self) -> None:
        """Draw where it ended."""
        if not self._quiet and self._last is not None:
            self._draw()
            if self._terminal:
                print(file=self._stream)

    def _draw(self) -> None:
        assert self._last is not None
        text = progress_text(self._last)
        self._drawn = monotonic()
        if self._terminal:
            print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(text)
        else:
            print(text, file=self._stream, flush=True)


def progress_text(done: BatchProgress) -> str:
    """Such as ``1200 of 5000 rows, 3 with an error, 18.4 rows/s, 0:03:26 left``."""
    text = f"{done.done} of {done.rows} rows"
    if done.errors:
        text += f", {done.errors} with an error"
    if done.left is not None:
        minutes, seconds = divmod(round(done.left), 60)
        hours, minutes = divmod(minutes, 60)
        text += f", {done.rate:.3g} rows/s, {hours}:{minutes:02}:{seconds:02} left"
    return text
