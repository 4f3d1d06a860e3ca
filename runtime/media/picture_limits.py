"""What a picture file may ask for, looked at before it is decompressed: pixels, sides, scans.

Decoders take memory by the pixels that a header claims, and time by the scans of a progressive JPEG, whatever the size
of the file: 34 bytes of WebP that claimed 128 Mi pixels took 3.6 GB.
"""

from __future__ import annotations

from typing import IO

from PIL import Image

from luvc_export.errors import UsageError

#: Pixels of a picture of any kind: at the 27 bytes a pixel of that WebP, 0.9 GB.
MAX_PIXELS = 32 * 2**20
#: Pixels of a JPEG that is not progressive: it can be decoded at a reduced scale, row by row.
MAX_JPEG_PIXELS = 128 * 2**20
#: Pixels a side, as JPEG has them.
MAX_SIDE = 65_535
#: Scans of a progressive JPEG; encoders write about ten.
MAX_SCANS = 128
#: Frames a folder or an animated picture may have.
MAX_FRAMES = 100_000

#: Key of ``Image.info`` for the size in the file of a picture that was decoded at a reduced one.
TRUE_SIZE = "luvc.size"
_START_OF_SCAN = b"\xff\xda"
_allowed: int | None = None


def allow(pixels: int | None) -> None:
    """Let pictures of so many pixels in from now on, of every kind, in this process; None for the defaults.

    Raises:
        UsageError: It is no number above 0.
    """
    global _allowed
    check_pixels(pixels)
    _allowed = pixels


def check_pixels(pixels: int | None) -> None:
    """Check what ``allow`` is told.

    Raises:
        UsageError: It is no number above 0.
    """
    if pixels is not None and pixels < 1:
        raise UsageError("a picture has pixels", where="--max-pixels", got=pixels, expected="a number above 0")


def allowed() -> int | None:
    """What ``allow`` was told."""
    return _allowed


def check_file(image: Image.Image, file: IO[bytes], where: str) -> int:
    """Check a picture that was opened and not decoded yet.

    Returns:
        Its scans: of a progressive JPEG, else 1.

    Raises:
        UsageError: It is too large, too wide, or has too many scans.
    """
    width, height = image.size
    baseline = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    most = _allowed or (MAX_JPEG_PIXELS if baseline else MAX_PIXELS)
    if width * height > most or max(width, height) > MAX_SIDE:
        raise UsageError(
            "the picture is too large",
            where=where,
            got=f"{width}x{height} = {width * height:,} pixels",
            expected=f"at most {most:,} pixels, {MAX_SIDE:,} a side",
            fix="make it smaller first; the model sees a small picture anyway (or --max-pixels)",
        )
    scans = 1
    if image.format in ("JPEG", "MPO") and not baseline:
        at = file.tell()
        file.seek(0)
        scans = file.read().count(_START_OF_SCAN)
        file.seek(at)
        if scans > MAX_SCANS:
            raise UsageError(
                "the picture has more scans than any encoder writes",
                where=where,
                got=scans,
                expected=f"at most {MAX_SCANS}",
                fix="save it again in an image editor",
            )
    return scans


def too_large(where: str, got: str, expected: str) -> UsageError:
    """A video of too many frames or pixels."""
    fix = "take fewer or smaller frames; the model sees a few small ones anyway"
    return UsageError("the video is too large", where=where, got=got, expected=expected, fix=fix)
