"""Pictures whose decoding takes unforeseeable time or memory: decoded in a helper process under limits.

How long JPEG, PNG, GIF, BMP and PPM take follows from pixels, scans and the file's length, which ``picture_limits``
bounds; JPEG takes at most eight bytes a pixel, the others 17, on their way to RGB. Nobody knows that of layers, tiles
and codecs inside TIFF, JPEG 2000, AVIF and the thirty other kinds Pillow reads; WebP takes 27 bytes a pixel, and no
byte of one but its size is parsed here.
"""

from __future__ import annotations

from PIL import Image

from luvc_export.runtime.confined.helpers import NICE, Helpers
from luvc_export.runtime.media import picture_limits

#: Bytes and seconds of computing for one picture. JPEG 2000 takes about 0.3 s for a million pixels.
MEMORY, SECONDS = 2**30, 8
#: Decoded where they are asked for.
_FORESEEABLE = frozenset({"JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM"})
#: Pixels times scans of a progressive JPEG that is decoded here: 24 million pixels in 11 scans.
_MOST_SCANNED = 2**28
#: Pixels of a picture that is no JPEG and is decoded here: at 17 bytes each, 71 MB.
_MOST_HERE = 2**22
_helpers = Helpers("luvc_export.runtime.media.decoding_task", MEMORY, SECONDS, most=3, nice=NICE)


def is_webp(head: bytes) -> bool:
    """Whether a file with these first bytes is a WebP, still or animated."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP's first chunk claims; None where it claims none."""
    kind, at = data[12:16], data[20:30]
    if len(at) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(at[4:7], "little"), 1 + int.from_bytes(at[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(at[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(at[6:8], "little") & 0x3FFF, int.from_bytes(at[8:10], "little") & 0x3FFF
    return None


def foreseeable(image: Image.Image, scans: int) -> bool:
    """Whether a picture that was opened and checked may be decoded in this process."""
    pixels = image.size[0] * image.size[1]
    most = _MOST_SCANNED // scans if image.format in ("JPEG", "MPO") else _MOST_HERE
    return image.format in _FORESEEABLE and pixels <= most


def decode_confined(data: bytes, max_pixels: int, where: str, need: tuple[int, int] | None) -> Image.Image:
    """A picture file as ``pictures.open_picture`` gives it, made by a helper.

    Raises:
        UsageError: It is no picture, damaged, too large, or takes more than ``MEMORY`` or ``SECONDS``.
        MachineError: No helper can be started here.
    """
    limits = {"max_pixels": max_pixels, "where": where, "need": need, "allowed": picture_limits.allowed()}
    fix = "save it as PNG or JPEG, or make it smaller first"
    reply, pixels = _helpers.decode("the picture", limits, data, fix)
    picture = Image.frombytes("RGB", tuple(reply["size"]), pixels)
    if reply["true_size"] is not None:
        picture.info[picture_limits.TRUE_SIZE] = tuple(reply["true_size"])
    return picture
