from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from luvc_export.errors import UsageError
from luvc_export.runtime.confined.helpers import Helpers
from luvc_export.runtime.media import decoding, picture_limits, pictures
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.media.video import open_video


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


def stored(kind: str, size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: object) -> bytes:
    data = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "AVIF", "TGA", "WEBP"])
def test_kinds_whose_cost_nobody_knows_are_decoded_elsewhere_and_look_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = stored(kind)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("RGB"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded in this process"))
    assert np.array_equal(np.asarray(open_picture(data)), wanted)


def test_a_turned_and_a_deep_tiff_come_as_before(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "turned.tif").write_bytes(stored("TIFF", exif=exif))
    assert open_picture(tmp_path / "turned.tif").size == (40, 60)
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 5), 0x8000, np.uint16)).save(deep, "TIFF")
    assert np.asarray(open_picture(deep.getvalue())).tolist() == [[[128, 128, 128]] * 5] * 4


def test_decoding_has_limits_on_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored("JPEG2000", (1500, 1500))
    short = Helpers(decoding._helpers._module, decoding.MEMORY, 0.05)
    monkeypatch.setattr(decoding, "_helpers", short)
    with pytest.raises(UsageError, match="too much time or memory") as caught:
        open_picture(data)
    assert "more than 0.05 s" in str(caught.value) and "PNG or JPEG" in str(caught.value.fix)
    small = Helpers(decoding._helpers._module, 2**22, 60)
    monkeypatch.setattr(decoding, "_helpers", small)
    with pytest.raises(UsageError) as caught:
        open_picture(data)
    assert "memory" in str(caught.value).lower()
    short.close(), small.close()


def test_damage_and_limits_are_named_from_there_too() -> None:
    with pytest.raises(UsageError, match="damaged or truncated") as caught:
        open_picture(stored("TIFF")[:900] + b"II*\0")
    assert str(caught.value.where).endswith("bytes")
    try:
        picture_limits.allow(100)
        with pytest.raises(UsageError, match="at most 100 pixels"):
            open_picture(stored("TGA"))
    finally:
        picture_limits.allow(None)


def test_a_progressive_jpeg_of_many_pixels_and_scans_is_decoded_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        pictures, "decode_confined", lambda *arguments: asked.append(arguments) or Image.new("RGB", (1, 1))
    )
    data = stored("JPEG", (64, 64), progressive=True)
    open_picture(data)
    assert not asked
    monkeypatch.setattr(decoding, "_MOST_SCANNED", 64 * 64 * 5)
    open_picture(data)
    assert asked and asked[0][0] == data


@pytest.mark.slow(beside="runtime/media/test_picture_limits.py::test_decoding_has_limits_on_time_and_memory")
def test_a_large_picture_with_transparency_takes_no_17_bytes_a_pixel_here(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = stored("PNG", (2048, 2048), "RGBA"), stored("PNG", (2049, 2048), "RGBA")
    assert open_picture(small).size == (2048, 2048)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded in this process"))
    assert open_picture(large).size == (2049, 2048)


def test_frames_of_a_video_have_the_limits_of_pictures(tmp_path: Path) -> None:
    data = stored("PNG", (30, 20), save_all=True, append_images=[Image.new("RGB", (30, 20))])
    (tmp_path / "film.png").write_bytes(data)
    assert open_video(tmp_path / "film.png").of == 2
    wide = data[:16] + struct.pack(">II", 1000, 70_000) + data[24:29]
    (tmp_path / "film.png").write_bytes(wide + struct.pack(">I", zlib.crc32(wide[12:29])) + data[33:])
    with pytest.raises(UsageError, match=r"frames of 1000x70000(.|\n)*at most 9,437,184 pixels each, 65,535 a side"):
        open_video(tmp_path / "film.png")
    os.mkfifo(tmp_path / "pipe.gif")
    with pytest.raises(UsageError):
        open_video(tmp_path / "pipe.gif")


def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.png")
    with pytest.raises(UsageError, match="no regular file"):
        open_picture(tmp_path / "cat.png")
    with pytest.raises(UsageError):
        open_picture("/dev/null")
