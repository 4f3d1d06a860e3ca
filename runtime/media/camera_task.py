"""What a helper process does for ``camera``: decodes without end in a thread, and keeps the newest frame alone."""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from typing import Any

import av

from luvc_export.errors import UsageError
from luvc_export.runtime.media.film import CODECS
from luvc_export.runtime.media.film_task import picture_of, pixel_aspect, refused, stream_of

#: Bytes that wait to be decoded, at most: about two seconds of a camera.
MAX_WAITING = 4 * 2**20
#: How much of a stream FFmpeg looks at before its first frame: bytes, and microseconds.
_PROBE = {"probesize": "1000000", "analyzeduration": "1000000"}
#: What devices give beside compressed pictures.
_RAW = "rawvideo"


class _Fed:
    """A file that others write into, without a place to go back to."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._waiting, self._ended, self._more = 0, False, threading.Condition()

    def put(self, data: bytes) -> bool:
        """Take more, nothing for the end; False where too much waits already."""
        with self._more:
            if data and self._waiting + len(data) > MAX_WAITING and self._waiting:
                return False
            self._parts.append(data)
            self._waiting, self._ended = self._waiting + len(data), self._ended or not data
            self._more.notify()
            return True

    def read(self, count: int) -> bytes:
        """At most so many bytes, as soon as any are there."""
        with self._more:
            while not self._parts and not self._ended:
                self._more.wait()
            part = self._parts.popleft() if self._parts else b""
            if len(part) > count:
                self._parts.appendleft(part[count:])
                part = part[:count]
            self._waiting -= len(part)
            return part


class _Reader:
    """Decodes one source in a thread of its own, which ends with it or with the process."""

    def __init__(self, request: dict[str, Any], data: bytes) -> None:
        self._request, self.where = request, request["where"]
        self.fed = _Fed() if request["kind"] == "stream" else None
        self._file = io.BytesIO(data)
        self._lock = threading.Lock()
        self._newest: tuple[int, float, Any] | None = None
        self.count, self.ended, self.aspect = 0, "", 1.0
        self.wrong: UsageError | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def newest(self) -> tuple[int, float, Any] | None:
        """Its number, from 1 on, its seconds, and the frame."""
        with self._lock:
            return self._newest

    def _run(self) -> None:
        try:
            with self._opened() as film:
                self._decode(film, stream_of(film, self.where, CODECS | {_RAW} if self._device else CODECS))
            self.ended = "it ended"
        except UsageError as error:
            self.wrong, self.ended = error, "it cannot be read"
        except Exception as error:  # decoders raise almost anything on damaged streams
            self.ended = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"[:200]

    @property
    def _device(self) -> bool:
        return bool(self._request["kind"] == "device")

    def _opened(self) -> Any:
        closed = {"protocol_whitelist": "none"}
        if self._device:
            return av.open(
                self._request["path"], format="v4l2", options=closed, io_open=refused, metadata_errors="ignore"
            )
        options, file = closed | (_PROBE if self.fed else {}), self.fed or self._file
        return av.open(
            file, format=self._request["container"], options=options, io_open=refused, metadata_errors="ignore"
        )

    def _decode(self, film: Any, stream: Any) -> None:
        begun: float | None = None
        self.aspect = pixel_aspect(stream)
        unit = float(stream.time_base)
        for packet in film.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:  # one damaged packet of a live stream: the next key frame mends it
                if self._request["kind"] == "file":
                    raise
                continue
            for frame in frames:
                ticks = frame.pts if frame.pts is not None else frame.dts
                seconds = 0.0 if ticks is None else ticks * unit
                if self._request["kind"] == "file":
                    now = time.monotonic()
                    begun = now - seconds if begun is None else begun
                    time.sleep(min(max(begun + seconds - now, 0.0), 60.0))
                with self._lock:
                    self.count += 1
                    self._newest = (self.count, seconds, frame)


_reader: _Reader | None = None


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Open a source, take more bytes of it, or give its newest frame if that is not number ``seen``."""
    global _reader
    if request["do"] == "open":
        _reader = _Reader(request, data)
        return {}, b""
    if _reader is None:
        return {"over": "its decoder was ended"}, b""
    if request["do"] == "feed":
        assert _reader.fed is not None
        return {"taken": _reader.fed.put(data)}, b""
    shown, over = _reader.newest(), _reader.ended
    if shown is None or shown[0] == request["seen"]:
        if _reader.wrong is not None:
            return _reader.wrong.to_json(), b""
        return {"over": over} if over else {}, b""
    number, seconds, frame = shown
    try:
        picture = picture_of(frame, request["share"], _reader.aspect)
    except UsageError as error:
        return error.to_json(), b""
    return {"number": number, "seconds": seconds, "size": picture.size, "of": [frame.width, frame.height]}, (
        picture.tobytes()
    )
