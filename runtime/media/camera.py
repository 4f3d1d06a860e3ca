"""A live source of pictures: a V4L2 device, a stream of bytes (standard input, a named pipe), or a film played in time.

The newest frame wins: a helper process decodes without end and keeps one frame, whoever asks gets that one. The
decoder is confined as that of films and gets bytes, but for a device, whose path it opens. It never gets the network:
``rtsp://`` and the like are refused, with the command that brings them here as bytes.
"""

from __future__ import annotations

import math
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from luvc_export.core.files.folders import check_name
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.confined.helpers import Helpers, TooMuchError
from luvc_export.runtime.media.film import HEAD, MAX_BYTES, container_of, film_too_large

Kind = Literal["device", "stream", "file"]
Clock = Callable[[], float]

#: Bytes that a decoder may take beyond its imports, and seconds of computing that one request may take.
MEMORY, SECONDS = 2**30, 16.0
#: Seconds without a new frame after which a source counts as lost, and before the first one after it was opened.
STALL, START = 10.0, 30.0
#: Seconds before it is opened again: the first time, and at most.
BACK_OFF = (0.5, 30.0)
_CHUNK, _TICK = 2**16, 0.2
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_TASK = "luvc_export.runtime.media.camera_task"


@dataclass(frozen=True)
class Source:
    """Where frames come from; ``path`` is None for standard input."""

    name: str
    kind: Kind
    path: Path | None

    @property
    def comes_back(self) -> bool:
        """Whether there may be more after it ended: not of a film, nor of standard input."""
        return self.kind != "file" and self.path is not None


@dataclass(frozen=True)
class Frame:
    """The newest frame: upright RGB, when it was asked for (``Camera.clock``), its number among all decoded ones."""

    picture: Image.Image
    time: float
    number: int


@dataclass(frozen=True)
class Event:
    """What happened to a source: ``lost`` (why, and seconds until it is tried again), ``back``, ``size`` or ``end``."""

    kind: Literal["lost", "back", "size", "end"]
    why: str = ""
    retry: float = 0.0


def source_of(text: str) -> Source:
    """What ``--camera TEXT`` names.

    Raises:
        UsageError: An address of a network, or nothing that is there.
    """
    if text == "-":
        return Source("standard input", "stream", None)
    if "://" in text:
        scheme = text.partition("://")[0].lower()
        options = " -rtsp_transport tcp" if scheme.startswith("rtsp") else ""
        raise UsageError(
            "cameras are not read over a network: the decoder of untrusted pictures never gets one",
            where="--camera",
            got=f"{scheme}://...",
            expected="a device such as /dev/video0, a film, a named pipe, or - for standard input",
            fix=f"have the address read apart from here: ffmpeg{options} -i ADDRESS -c copy -an -f mpegts - | "
            "luvc-export run BUNDLE --camera - --prompt QUESTION",
        )
    path = Path(text)
    check_name(path, "the camera")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        expected = "a device such as /dev/video0, a film, a named pipe, or - for standard input"
        raise UsageError("there is no such camera", where=text, got=error.strerror, expected=expected) from error
    kinds: tuple[tuple[Callable[[int], bool], Kind], ...]
    kinds = (stat.S_ISCHR, "device"), (stat.S_ISFIFO, "stream"), (stat.S_ISREG, "file")
    for is_kind, kind in kinds:
        if is_kind(mode):
            return Source(text, kind, path)
    raise UsageError("this is no camera", where=text, got="a folder, a disk or a socket", expected="a device or a file")


class LostError(Exception):
    """A source gives no frame any more; the text says why."""


class Camera:
    """Frames of a source, opened again when it is lost. One thread asks; ``close`` ends what was started.

    Args:
        source: See ``source_of``.
        share: Frames that are held at once: each may have its share of ``film.MAX_TAKEN_PIXELS``, larger ones are
            reduced.
        stall: Seconds without a new frame after which the source counts as lost.
        clock: Seconds that rise.

    Attributes:
        decoded: Frames so far, of every time it was opened.
        given: Those that ``poll`` gave. What is between was dropped.
        reopened: How often it came back.
        ended: Whether nothing more can come: a film or standard input is over.

    Raises:
        MachineError: PyAV is not installed.
    """

    def __init__(self, source: Source, share: int = 1, stall: float = STALL, clock: Clock = time.monotonic) -> None:
        if find_spec("av") is None:
            fix = "pip install 'luvc-export[video]'"
            raise MachineError("cameras are read by PyAV, which is not installed", where=source.name, fix=fix)
        self.source, self.clock = source, clock
        self.decoded = self.given = self.reopened = 0
        self.ended = False
        self._share, self._stall = share, stall
        self._opening: _Opening | None = None
        self._retry, self._due, self._size = BACK_OFF[0], -math.inf, (0, 0)

    @property
    def dropped(self) -> int:
        """Frames that were decoded and never given."""
        return self.decoded - self.given

    def poll(self) -> tuple[list[Event], Frame | None]:
        """What happened since the last call, and the newest frame if it was not given yet. Does not wait for one.

        Raises:
            UsageError: The source cannot be read: no video, an unknown codec, too large; or it never gave a frame.
            MachineError: No helper can be started here.
        """
        if self.ended or (self._opening is None and self.clock() < self._due):
            return [], None
        if self._opening is None:
            self._opening = _Opening(self.source, self._share, self.clock)
        opening = self._opening
        try:
            reply, pixels = opening.ask()
            silent = self.clock() - opening.last
            if "number" not in reply and silent > (self._stall if opening.seen else max(self._stall, START)):
                raise LostError(f"no frame for {silent:.1f} s")
        except (LostError, TooMuchError) as error:
            return [self._lost(str(error))], None
        except UsageError as error:
            if self.decoded and self.source.comes_back:
                return [self._lost(error.what)], None
            self.close()
            raise
        return self._shown(opening, reply, pixels) if "number" in reply else ([], None)

    def _shown(self, opening: _Opening, reply: dict[str, Any], pixels: bytes) -> tuple[list[Event], Frame]:
        events = []
        if self.decoded and not opening.seen:
            self.reopened += 1
            events.append(Event("back"))
        width, height = reply["of"]
        if self._size not in ((0, 0), (width, height)):
            events.append(Event("size", f"{self._size[0]}x{self._size[1]} to {width}x{height}"))
        self._size, self._retry = (width, height), BACK_OFF[0]
        self.decoded, self.given = self.decoded + reply["number"] - opening.seen, self.given + 1
        opening.seen, opening.last = reply["number"], self.clock()
        picture = Image.frombytes("RGB", tuple(reply["size"]), pixels)
        return events, Frame(picture, opening.last, self.decoded)

    def _lost(self, why: str) -> Event:
        """The source is over, or is opened again later.

        Raises:
            UsageError: It never gave a frame.
        """
        self.close()
        if not self.decoded:
            raise UsageError("the camera gives no frames", where=self.source.name, got=why, expected="video")
        if not self.source.comes_back:
            self.ended = True
            return Event("end", why)
        retry, self._retry = self._retry, min(2 * self._retry, BACK_OFF[1])
        self._due = self.clock() + retry
        return Event("lost", why, retry)

    def close(self) -> None:
        """End the helper and stop reading."""
        if self._opening is not None:
            self._opening.close()
            self._opening = None


class _Opening:
    """One time that a source was opened: its helper, and what feeds it."""

    def __init__(self, source: Source, share: int, clock: Clock) -> None:
        self.seen, self.last = 0, clock()
        self._source, self._share, self._stop = source, share, threading.Event()
        self._helpers = Helpers(_TASK, MEMORY, SECONDS, most=1)
        self._over, self._wrong = "", list[UsageError]()
        self._feeder: threading.Thread | None = None
        if source.kind == "stream":
            self._feeder = threading.Thread(target=self._feed, daemon=True)
            self._feeder.start()
        elif source.kind == "device":
            self._call({"do": "open", "kind": "device", "path": str(source.path), "where": source.name})
        else:
            self._open_film(source)

    def ask(self) -> tuple[dict[str, Any], bytes]:
        """The newest frame, or nothing new.

        Raises:
            LostError: Nothing more can come.
            TooMuchError: See ``Helpers.call``.
            UsageError: The decoder says that it cannot be read.
        """
        if self._wrong:
            raise self._wrong[0]
        if self._feeder is not None and not self._opened:
            if self._over:
                raise LostError(self._over)
            return {}, b""
        reply, pixels = self._call({"do": "newest", "seen": self.seen, "share": self._share})
        if "over" in reply:
            raise LostError(reply["over"])
        return reply, pixels

    def close(self) -> None:
        """End the helper; a feeder that waits for bytes ends with its next ones."""
        self._stop.set()
        if self._feeder is not None:
            self._feeder.join(1.0)
        self._helpers.close()

    _opened = False

    def _call(self, request: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        reply, pixels = self._helpers.call(request, data)
        if "what" in reply:
            raise UsageError(reply["what"], **{name: reply[name] for name in ("where", "got", "expected", "fix")})
        return reply, pixels

    def _open_film(self, source: Source) -> None:
        assert source.path is not None
        with open_regular(source.path, links=True) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise film_too_large(source.name)
        self._open_bytes("file", data)

    def _open_bytes(self, kind: Kind, data: bytes) -> None:
        container = container_of(data[:HEAD])
        if container is None:
            raise UsageError(
                "this is no film and no stream that is read",
                where=self._source.name,
                expected="mpegts, matroska, mp4, avi, ogg, mpeg or flv",
                fix="ffmpeg -i SOURCE -an -f mpegts -",
            )
        request = {"do": "open", "kind": kind, "container": container, "where": self._source.name}
        self._call(request, data if kind == "file" else b"")
        if kind == "stream":
            self._opened = True
            self._put(data)

    def _feed(self) -> None:
        """Hand bytes on as they come; the end of them too."""
        try:
            descriptor = 0 if self._source.path is None else os.open(self._source.path, os.O_RDONLY | _NO_WAIT)
            try:
                self._feed_from(descriptor)
            finally:
                if descriptor:
                    os.close(descriptor)
        except UsageError as error:
            self._wrong.append(error)
        except (OSError, TooMuchError) as error:
            self._over = str(error)
            self._opened = False

    def _feed_from(self, descriptor: int) -> None:
        head = b""
        while not self._stop.is_set():
            if os.name != "nt" and not select.select([descriptor], [], [], _TICK)[0]:
                continue
            data = os.read(descriptor, _CHUNK)
            if not data and not head and self._source.path is not None:
                self._stop.wait(_TICK)  # nobody writes into the pipe yet
                continue
            if self._opened:
                self._put(data)
            else:
                head += data
                if len(head) >= HEAD or not data:
                    self._open_bytes("stream", head)
            if not data:
                return

    def _put(self, data: bytes) -> None:
        while not self._stop.is_set() and not self._call({"do": "feed"}, data)[0].get("taken", True):
            self._stop.wait(_TICK / 10)
