"""What a helper process does for ``film``: opens a film's bytes with PyAV and takes frames, seeking to each."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from errno import EAGAIN, ENOMEM
from typing import Any

import av
from PIL import Image

from luvc_export.errors import UsageError
from luvc_export.runtime.media.film import CODECS, MAX_FRAME_PIXELS, MAX_SECONDS, MAX_TAKEN_PIXELS

#: Seconds ahead from which a seek may save decoding, and before a wanted frame in which every frame is decoded.
_SEEK, _EVERY = 1.0, 1.0
#: The same where the file has no index of its key frames.
_SEEK_BLIND = 4.0
#: Seconds that a film may end before its header says.
_SHORT = 2.0
#: Pixels are at most so many times as wide as high, or as high as wide.
_MOST_ASPECT = 4
_DAMAGED = "the film is damaged or truncated"


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes | bytearray]:
    """Take frames, or say what is wrong."""
    try:
        return _taken(io.BytesIO(data), request["container"], request["frames"], request["where"])
    except UsageError as error:
        return error.to_json(), b""
    except av.FFmpegError as error:
        if error.errno in (ENOMEM, EAGAIN):  # a thread's stack is memory too
            raise MemoryError from error
        return _damaged(request["where"], f"{type(error).__name__}: {error.strerror}").to_json(), b""
    except MemoryError:
        raise
    except Exception as error:
        return _damaged(request["where"], f"{type(error).__name__}: {error}"[:200]).to_json(), b""


def _taken(file: io.BytesIO, container: str, count: int, where: str) -> tuple[dict[str, Any], bytearray]:
    with av.open(
        file, format=container, options={"protocol_whitelist": "none"}, io_open=refused, metadata_errors="ignore"
    ) as film:
        stream = stream_of(film, where)
        seconds, of = _length(film, stream, where)
        wanted = min(count, max(of, 1))
        reader = _Reader(film, stream, where)
        sizes, times, pixels = [], [], bytearray()
        for index in range(wanted):
            frame, time = reader.at(index * seconds / wanted)
            picture = picture_of(frame, wanted, pixel_aspect(stream))
            sizes.append(picture.size)
            times.append(time)
            pixels += picture.tobytes()
        return {"sizes": sizes, "times": times, "seconds": seconds, "of": of}, pixels


def refused(url: str, flags: int, options: dict[str, str]) -> None:
    """No film may have another file or address opened."""
    raise PermissionError("a film may not name other files")


def stream_of(film: Any, where: str, codecs: frozenset[str] = CODECS) -> Any:
    """The one with moving pictures, checked before anything is decoded.

    Raises:
        UsageError: There is none, its codec is none of ``codecs``, or its frames are too large.
    """
    streams = [s for s in film.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = sorted({s.type for s in film.streams}) or ["nothing"]
        raise UsageError("there are no pictures in this film", where=where, got=", ".join(kinds), expected="video")
    stream = streams[0]
    context = stream.codec_context
    if context is None or context.name not in codecs:
        got = "an unknown codec" if context is None else context.name
        raise UsageError(
            "films of this codec are not read",
            where=where,
            got=got,
            expected="one of " + ", ".join(sorted(CODECS - {"libdav1d"})),
            fix="make another of it: ffmpeg -i FILM -c:v libx264 OTHER.mp4",
        )
    width, height = context.width, context.height
    if width < 1 or height < 1:
        raise _damaged(where, f"frames of {width}x{height} pixels")
    if width * height > MAX_FRAME_PIXELS:
        raise UsageError(
            "the film's frames are too large",
            where=where,
            got=f"{width}x{height} = {width * height:,} pixels",
            expected=f"at most {MAX_FRAME_PIXELS:,} pixels",
            fix="make it smaller first: ffmpeg -i FILM -vf scale=1280:-2 SMALLER.mp4",
        )
    context.thread_count, context.thread_type = 1, "NONE"
    return stream


def _length(film: Any, stream: Any, where: str) -> tuple[float, int]:
    """How long the film is in seconds, and how many frames it has, by its header; else by its packets."""
    unit = float(stream.time_base)
    seconds = stream.duration * unit if stream.duration else (film.duration or 0) / av.time_base
    count = stream.frames
    if not seconds > 0:
        first, last, count = math.inf, -math.inf, 0
        for packet in film.demux(stream):
            if packet.pts is not None:
                first = min(first, packet.pts)
                last, count = max(last, packet.pts + (packet.duration or 0)), count + 1
        seconds = (last - first) * unit if count else 0.0
        if count:  # what has no packets cannot be sought in
            film.seek(0)
    if not 0 < seconds < math.inf:
        raise UsageError("the film has no frames", where=where, got="0 seconds", expected="moving pictures")
    if seconds > MAX_SECONDS:
        raise UsageError(
            "the film is too long",
            where=where,
            got=f"{seconds / 3600:.3g} hours",
            expected=f"at most {MAX_SECONDS // 3600} hours",
            fix="cut it: ffmpeg -ss START -t SECONDS -i FILM PART.mp4",
        )
    if count < 1:
        count = round(seconds * float(stream.average_rate or stream.guessed_rate or 25))
    return seconds, max(count, 1)


class _Reader:
    """Frames by their times, which must rise from call to call."""

    def __init__(self, film: Any, stream: Any, where: str) -> None:
        self._film, self._stream, self._where = film, stream, where
        self._unit = float(stream.time_base)
        self._start = (stream.start_time or 0) * self._unit
        self._wanted = 0.0
        self._shown: tuple[float, Any] | None = None
        self._ahead: tuple[float, Any] | None = None
        self._frames = self._decoded()

    def at(self, seconds: float) -> tuple[Any, float]:
        """The frame shown so many seconds after the start, and when it begins."""
        self._wanted = seconds + 1e-6
        if self._shown is not None and self._wanted - self._shown[0] > _SEEK and self._worth():
            self._seek()
        while self._ahead is None or self._ahead[0] <= self._wanted:
            if self._ahead is not None:
                self._shown = self._ahead
            self._ahead = next(self._frames, None)
            if self._ahead is None:
                break
        if self._shown is None:  # its first frame comes later than its header says
            self._shown = self._ahead
        if self._shown is None:
            raise UsageError(
                "the film has no frames", where=self._where, got="none decodes", expected="moving pictures"
            )
        time, frame = self._shown
        if self._ahead is None and self._wanted - time > _SHORT + 1.5 * (frame.duration or 0) * self._unit:
            got = f"the last frame is at {time:.1f} s, one at {seconds:.1f} s is due by its header"
            raise _damaged(self._where, got)
        if frame.is_corrupt:
            raise _damaged(self._where, f"the frame at {time:.1f} s cannot be decoded whole")
        return frame, max(time, 0.0)

    def _worth(self) -> bool:
        """Whether a key frame stands between where reading is and what is wanted."""
        assert self._shown is not None
        entries = self._stream.index_entries
        if len(entries) == 0:
            return self._wanted - self._shown[0] > _SEEK_BLIND
        index = entries.search_timestamp(self._ticks(self._wanted), backward=True)
        at = -1 if index is None or index < 0 else entries[index].timestamp
        return bool(at > self._ticks(self._shown[0]))

    def _ticks(self, seconds: float) -> int:
        return int((seconds + self._start) / self._unit)

    def _seek(self) -> None:
        """Go to the key frame before what is wanted; further back where its frames begin after it."""
        for earlier in (0.0, 10.0, math.inf):
            self._film.seek(
                max(self._ticks(self._wanted - earlier) if earlier < math.inf else 0, 0), stream=self._stream
            )
            self._frames = self._decoded()
            self._shown, self._ahead = None, next(self._frames, None)
            if self._ahead is not None and self._ahead[0] <= self._wanted:
                return

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        """Frames with their seconds from the start; long before what is wanted, those alone that others build on."""
        context = self._stream.codec_context
        for packet in self._film.demux(self._stream):
            early = packet.pts is not None and packet.pts * self._unit - self._start < self._wanted - _EVERY
            context.skip_frame = "NONREF" if early else "DEFAULT"
            for frame in packet.decode():
                ticks = frame.pts if frame.pts is not None else frame.dts
                if ticks is None:
                    raise _damaged(self._where, "frames without times")
                yield ticks * self._unit - self._start, frame


def pixel_aspect(stream: Any) -> float:
    """Width of a pixel by its height, as a film says; 1 where it says nothing, or what no film has."""
    ratio = stream.sample_aspect_ratio
    return float(ratio) if ratio and 1 / _MOST_ASPECT <= ratio <= _MOST_ASPECT else 1.0


def picture_of(frame: Any, count: int, aspect: float = 1.0) -> Image.Image:
    """A frame as it is looked at: upright, of square pixels, at most its share of ``MAX_TAKEN_PIXELS``.

    Pixels of another ``aspect`` are stretched along their shorter side, so that nothing is lost.

    Raises:
        UsageError: Its pixels became too many.
    """
    if frame.width * frame.height > MAX_FRAME_PIXELS:
        raise UsageError("the film's frames become too large", got=f"{frame.width}x{frame.height} pixels")
    picture: Image.Image = frame.to_image(threads=1)
    stretched = max(aspect, 1 / aspect)
    factor = math.ceil(math.sqrt(picture.width * picture.height * stretched * count / MAX_TAKEN_PIXELS))
    if factor > 1:
        picture = picture.reduce(factor)
    if aspect != 1.0:
        size = round(picture.width * max(aspect, 1)), round(picture.height * max(1 / aspect, 1))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture.rotate(90 * round(frame.rotation / 90), expand=True) if frame.rotation else picture


def _damaged(where: str, got: str) -> UsageError:
    return UsageError(_DAMAGED, where=where, got=got, fix="copy or download it again")
