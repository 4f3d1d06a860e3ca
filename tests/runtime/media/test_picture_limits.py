from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from luvc_export.errors import UsageError
from luvc_export.runtime.media import picture_limits
from luvc_export.runtime.media.pictures import open_picture


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has the data of one pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 4)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("data", [png(8192, 8192), png(70_000, 1)])
def test_sizes_a_header_claims_are_refused_before_decoding(data: bytes) -> None:
    with pytest.raises(UsageError, match="the picture is too large") as caught:
        open_picture(data)
    assert "--max-pixels" in str(caught.value.fix)


def test_max_pixels_allows_more_and_less() -> None:
    stored = io.BytesIO()
    Image.new("RGB", (300, 200)).save(stored, "PNG")
    try:
        picture_limits.allow(59_999)
        with pytest.raises(UsageError, match="at most 59,999 pixels"):
            open_picture(stored.getvalue())
        picture_limits.allow(60_000)
        assert open_picture(stored.getvalue()).size == (300, 200)
        with pytest.raises(UsageError, match="--max-pixels"):
            picture_limits.allow(0)
    finally:
        picture_limits.allow(None)


def test_a_progressive_jpeg_of_many_scans_is_refused() -> None:
    stored = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(stored, "JPEG", progressive=True)
    data = stored.getvalue()
    assert open_picture(data).size == (64, 64)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(UsageError, match="more scans"):
        open_picture(data[:-2] + scan * 200 + data[-2:])


def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.png")
    with pytest.raises(UsageError, match="no regular file"):
        open_picture(tmp_path / "cat.png")
    with pytest.raises(UsageError):
        open_picture("/dev/null")
