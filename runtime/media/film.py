"""Films (mp4, mkv, webm, avi, ts, ...): what is one, and the frames that a helper process takes of it.

FFmpeg's decoders are large and meet untrusted files, so they run in ``runtime.confined``: they get bytes, never a path
or an address, and no other file or host is opened for them. What a file is, its first bytes say; containers that only
name other files (playlists, concat, sdp) are none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from shlex import quote
from typing import Any

from PIL import Image

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.confined.helpers import NICE, Helpers

#: Bytes a film's file may have: it is handed over whole.
MAX_BYTES = 256 * 2**20
#: Pixels of a frame: 4096x2304.
MAX_FRAME_PIXELS = 4096 * 2304
#: Pixels of all frames taken: 16 of 1920x1080. Larger ones are reduced by a whole factor.
MAX_TAKEN_PIXELS = 2**25
#: Seconds a film may last by its header.
MAX_SECONDS = 12 * 3600
#: Bytes and seconds of computing that reading one may take, and seconds on the clock.
MEMORY, SECONDS, CLOCK = 2**30, 16.0, 20.0
#: Decoders that may run.
CODECS = frozenset(
    {"av1", "h263", "h264", "hevc", "libdav1d", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "theora", "vp8", "vp9"}
)
#: Bytes that ``container_of`` looks at.
HEAD = 1024

_helpers = Helpers("luvc_export.runtime.media.film_task", MEMORY, SECONDS, most=3, clock=CLOCK, nice=NICE)
#: Kinds of ISO media files that are pictures.
_PICTURES = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
_MOV = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})


@dataclass(frozen=True)
class Taken:
    """Frames of a film, upright RGB, when each is shown (seconds from the start), how long the film is, its frames."""

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    seconds: float
    of: int


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that a file with these first bytes is; None for what is no film."""
    if head[4:8] in _MOV:
        return None if head[4:8] == b"ftyp" and head[8:12] in _PICTURES else "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:3] == b"FLV":
        return "flv"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    if any(len(head) > 2 * size and head[0] == head[size] == head[2 * size] == 0x47 for size in (188, 204)):
        return "mpegts"
    return None


def decode_film(data: bytes, container: str, frames: int, where: str) -> Taken:
    """At most ``frames`` frames of a film, evenly spread over it, each the one shown at its time.

    Args:
        data: The file.
        container: See ``container_of``.
        frames: At most; fewer where the film has fewer.
        where: Its name, for errors.

    Raises:
        UsageError: Damaged, no pictures in it, too large, too long, or it takes too much time or memory.
        MachineError: PyAV is not installed, or no helper can be started here.
    """
    if len(data) > MAX_BYTES:
        raise film_too_large(where)
    if find_spec("av") is None:
        raise MachineError(
            "films are read by PyAV, which is not installed",
            where=where,
            fix=f"pip install 'luvc-export[video]'; or {ffmpeg(where, 'FRAMES')}",
        )
    fix = "take fewer frames, or make it smaller and its key frames more frequent: "
    fix += f"ffmpeg -i {quote(where)} -vf scale=1280:-2 -g 30 SMALLER.mp4"
    return taken_of(*_helpers.decode("the film", {"container": container, "frames": frames, "where": where}, data, fix))


def taken_of(reply: dict[str, Any], pixels: bytes) -> Taken:
    """The frames that a helper replied with."""
    pictures, at, view = [], 0, memoryview(pixels)
    for width, height in reply["sizes"]:
        pictures.append(Image.frombytes("RGB", (width, height), view[at : at + 3 * width * height]))
        at += 3 * width * height
    return Taken(tuple(pictures), tuple(reply["times"]), reply["seconds"], reply["of"])


def film_too_large(where: str) -> UsageError:
    """A file beyond ``MAX_BYTES``."""
    return UsageError(
        "the film's file is too large",
        where=where,
        got=f"more than {MAX_BYTES // 2**20} MiB",
        expected=f"at most {MAX_BYTES // 2**20} MiB",
        fix=f"make it smaller first: ffmpeg -i {quote(where)} -vf scale=1280:-2 -an SMALLER.mp4",
    )


def ffmpeg(film: str, folder: str) -> str:
    """The command that makes a folder of frames, for a shell."""
    return f"mkdir -p {quote(folder)} && ffmpeg -i {quote(film)} -vf fps=2 {quote(folder)}/%06d.jpg"
