"""Animated GIF, WebP and PNG: what a header walk says of one, and the frames that a helper process takes of it.

Frames, their size and their times stand in blocks that are walked without decompressing any, so that what is too large
or too long is refused first. A frame builds on the one before it, so all up to the last wanted one are decoded: in
``runtime.confined``, as films are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from luvc_export.errors import UsageError
from luvc_export.runtime.confined.helpers import NICE, Helpers
from luvc_export.runtime.media.decoding import is_webp, webp_size
from luvc_export.runtime.media.film import (
    MAX_BYTES,
    MAX_FRAME_PIXELS,
    MAX_SECONDS,
    Taken,
    ffmpeg,
    film_too_large,
    taken_of,
)
from luvc_export.runtime.media.picture_limits import MAX_FRAMES, MAX_SIDE, allowed, too_large

#: Pixels of all its frames, each as large as the canvas: 500 of 1920x1080, at the 70 million a second that noise takes.
MAX_FILE_PIXELS = 2**30
#: Bytes and seconds of computing that reading one may take, and seconds on the clock.
MEMORY, SECONDS, CLOCK = 2**30, 16.0, 20.0

_helpers = Helpers("luvc_export.runtime.media.decoding_task", MEMORY, SECONDS, most=3, clock=CLOCK, nice=NICE)
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Animation:
    """What a header walk says: width and height of the canvas, and how long each frame is shown (milliseconds)."""

    size: tuple[int, int]
    durations: tuple[float, ...]

    def ends(self, fps: float) -> list[float]:
        """When each frame ends, in milliseconds from the start; by ``fps`` where the file says nothing."""
        ends = list(accumulate(self.durations))
        return ends if ends[-1] > 0 else [(index + 1) * 1000 / fps for index in range(len(ends))]


def read_header(data: bytes, where: str) -> Animation:
    """Walk a file's blocks and check what they claim; nothing is decompressed.

    Args:
        data: The file.
        where: Its name, for errors.

    Raises:
        UsageError: It is no GIF, WebP or PNG, a still picture, damaged, too large, or too long.
    """
    try:
        animation = _walked(data)
    except (struct.error, IndexError) as error:
        raise UsageError(
            "the video is damaged or truncated",
            where=where,
            got="its blocks end before their lengths say",
            fix="copy or download it again",
        ) from error
    if animation is None:
        raise UsageError(
            "this file is no film that is read, and no animated picture",
            where=where,
            expected="mp4, mov, mkv, webm, avi, ts, mpg, ogv, flv, GIF, WebP or PNG; or a folder of frames",
            fix=ffmpeg(where, "FRAMES"),
        )
    _check(animation, where)
    return animation


def decode_animation(data: bytes, frames: int, fps: float | None, default_fps: float, where: str) -> Taken:
    """At most ``frames`` frames of an animated picture, evenly spread over it, each the one shown at its time.

    Args:
        data: The file.
        frames: At most; fewer where it has fewer.
        fps: Frames a second, whatever the file says; None for what it says.
        default_fps: Frames a second where neither says.
        where: Its name, for errors.

    Raises:
        UsageError: See ``read_header``; or it takes too much time or memory.
        MachineError: No helper can be started here.
    """
    if len(data) > MAX_BYTES:
        raise film_too_large(where)
    limits = {"frames": frames, "fps": fps, "default_fps": default_fps, "where": where, "allowed": allowed()}
    return taken_of(*_helpers.decode("the animated picture", limits, data, "make it smaller or shorter first"))


def _check(animation: Animation, where: str) -> None:
    (width, height), count = animation.size, len(animation.durations)
    pixels, most = width * height, min(allowed() or MAX_FRAME_PIXELS, MAX_FRAME_PIXELS)
    if count > MAX_FRAMES:
        raise too_large(where, f"more than {MAX_FRAMES:,} frames", f"at most {MAX_FRAMES:,}")
    if pixels > most or max(width, height) > MAX_SIDE:
        raise too_large(where, f"frames of {width}x{height}", f"at most {most:,} pixels each, {MAX_SIDE:,} a side")
    if count * pixels > MAX_FILE_PIXELS:
        raise too_large(where, f"{count} frames of {width}x{height}", f"at most {MAX_FILE_PIXELS:,} pixels in all")
    if count < 2:
        raise UsageError("this is a still picture", where=where, expected="a video", fix="pass it as a picture")
    if sum(animation.durations) > 1000 * MAX_SECONDS:
        got = f"{sum(animation.durations) / 3.6e6:.3g} hours"
        raise UsageError("the video is too long", where=where, got=got, expected=f"at most {MAX_SECONDS // 3600} hours")


def _walked(data: bytes) -> Animation | None:
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if data[: len(_PNG)] == _PNG:
        return _png(data)
    return _webp(data) if is_webp(data) else None


def _webp(data: bytes) -> Animation:
    size = webp_size(data)
    if size is None:
        raise IndexError
    durations: list[float] = []
    for kind, at, length in _chunks(data, 12, "<4sI", 0):
        if kind == b"ANMF" and length >= 16 and len(durations) <= MAX_FRAMES:
            durations.append(int.from_bytes(data[at + 12 : at + 15], "little"))
    return Animation(size, tuple(durations) or (0.0,))


def _png(data: bytes) -> Animation:
    size: tuple[int, int] | None = None
    durations: list[float] = []
    pictures = animated = 0
    for kind, at, length in _chunks(data, len(_PNG), ">I4s", 4):
        if size is None:
            size = struct.unpack_from(">II", data, at)
        if kind == b"acTL":
            animated += 1
        elif kind == b"fcTL" and length == 26 and len(durations) <= MAX_FRAMES:
            numerator, denominator = struct.unpack_from(">HH", data, at + 20)
            durations.append(1000 * numerator / (denominator or 100))
        elif kind == b"IDAT":
            if not pictures and not durations:
                durations.append(0.0)  # a picture for who knows no animations: the frame before the first
            pictures += 1
    if size is None:
        raise IndexError
    return Animation(size, tuple(durations) if animated and durations else (0.0,))


def _chunks(data: bytes, at: int, head: str, tail: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of each chunk of a RIFF (``<4sI``) or PNG (``>I4s``); a cut one is the last."""
    while at + 8 <= len(data):
        first, second = struct.unpack_from(head, data, at)
        kind, length = (first, second) if isinstance(first, bytes) else (second, first)
        yield kind, at + 8, length
        at += 8 + length + (tail or length % 2)


def _gif(data: bytes) -> Animation:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    durations: list[float] = []
    waits = 0.0
    while at < len(data) and len(durations) <= MAX_FRAMES:
        kind = data[at]
        if kind == 0x21:
            if data[at + 1] == 0xF9:
                waits = 10.0 * struct.unpack_from("<H", data, at + 4)[0]
            at = _after_blocks(data, at + 2)
        elif kind == 0x2C:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            width, height = max(width, left + wide), max(height, top + high)  # Pillow widens its canvas
            durations.append(waits)
            waits = 0.0
            at = _after_blocks(data, at + 11 + _colours(flags))
        elif kind == 0x3B:
            break
        else:
            at += 1
    return Animation((width, height), tuple(durations) or (0.0,))


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 * 2 ** (1 + (flags & 7)) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1
