from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luvc_export.bundle.manifest import Fit, ImageInput
from luvc_export.errors import UsageError
from luvc_export.runtime.media import pictures
from luvc_export.runtime.media.pictures import open_picture, picture_size
from luvc_export.runtime.media.preprocess import tile_picture

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def pixel(source: Any) -> tuple[int, ...]:
    image = open_picture(source)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))  # type: ignore[return-value]


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def palette(transparency: Any = None) -> Image.Image:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, *RED])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGB", (2, 2), RED), RED),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("LA", (2, 2), (77, 0)), WHITE),
        (Image.new("1", (2, 2), 1), WHITE),
        (palette(), RED),
        (palette(1), WHITE),
        (palette(bytes([255, 0])), WHITE),
        (palette(bytes([0, 255])), RED),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("YCbCr", (2, 2), (255, 128, 128)), WHITE),
        (Image.new("HSV", (2, 2), (0, 255, 255)), RED),
        (Image.new("LAB", (2, 2), (0, 128, 128)), (1, 0, 1)),
        (Image.new("I;16", (2, 2), 65535), WHITE),
        (Image.new("I;16", (2, 2), 257 * 77), (77, 77, 77)),
        (Image.new("I", (2, 2), 257 * 77), (77, 77, 77)),
        (Image.new("F", (2, 2), 0.2), (51, 51, 51)),
        (Image.new("RGBa", (2, 2), (0, 0, 0, 0)), WHITE),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_rgb(image: Image.Image, colour: tuple[int, int, int]) -> None:
    assert pixel(image) == colour


@pytest.mark.parametrize(
    ("mode", "kind", "value", "colour"),
    [
        ("I;16", "PNG", 65535, WHITE),
        ("I;16", "TIFF", 257 * 3, (3, 3, 3)),
        ("I", "TIFF", 257 * 3, (3, 3, 3)),
        ("CMYK", "JPEG", (0, 0, 0, 255), BLACK),
        ("CMYK", "TIFF", (0, 255, 255, 0), RED),
        ("P", "GIF", 0, BLACK),
        ("RGBA", "WEBP", (0, 0, 0, 0), WHITE),
        ("1", "BMP", 1, WHITE),
    ],
)
def test_files_of_odd_modes(tmp_path: Path, mode: str, kind: str, value: Any, colour: tuple[int, ...]) -> None:
    path = tmp_path / "picture"
    Image.new(mode, (4, 4), value).save(path, kind)
    assert pixel(path) == pixel(str(path)) == pixel(path.read_bytes()) == colour


def test_a_colour_key_is_transparent() -> None:
    assert pixel(saved(Image.new("L", (2, 2), 9), transparency=9)) == WHITE
    assert pixel(saved(Image.new("RGB", (2, 2), RED), transparency=RED)) == WHITE
    deep = Image.new("I;16", (2, 2), 900)
    deep.info["transparency"] = 900
    assert pixel(deep) == WHITE


def test_exif_orientation_turns_the_picture() -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLACK, (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    turned = open_picture(saved(image, exif=exif))
    assert turned.size == (20, 40)
    assert turned.getpixel((10, 5)) == RED
    assert turned.getpixel((10, 35)) == BLACK


@pytest.mark.parametrize(
    ("array", "colour"),
    [
        (np.full((2, 2), 77, np.uint8), (77, 77, 77)),
        (np.full((2, 2, 1), 77, np.uint8), (77, 77, 77)),
        (np.full((2, 2, 3), 77, np.uint8), (77, 77, 77)),
        (np.full((2, 2, 4), 0, np.uint8), WHITE),
        (np.full((2, 2, 3), 65535, np.uint16), WHITE),
        (np.full((2, 2), 128, np.uint16), BLACK),
        (np.full((2, 2), 129, np.uint16), (1, 1, 1)),
        (np.full((2, 2, 3), 0.2, np.float32), (51, 51, 51)),
        (np.full((2, 2, 3), 1.0, np.float64), WHITE),
        (np.full((4, 4, 3), 5, np.uint8)[::2, ::-2], (5, 5, 5)),
    ],
)
def test_arrays(array: Any, colour: tuple[int, ...]) -> None:
    assert pixel(array) == colour


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), ["[3, 8, 8]", "transpose(1, 2, 0)"]),
        (np.zeros((8,), np.uint8), ["[8]", "[H, W, 3]"]),
        (np.zeros((8, 8, 2), np.uint8), ["[8, 8, 2]"]),
        (np.zeros((8, 8, 3), np.int64), ["int64", "uint8, uint16, or float"]),
        (np.zeros((8, 8, 3), bool), ["bool"]),
        (np.full((8, 8, 3), 200.0), ["0..1", "from 200 to 200", "divide"]),
        (np.full((8, 8), -0.1), ["0..1"]),
        (np.full((8, 8), np.nan), ["0..1", "nan"]),
        (np.zeros((0, 8, 3), np.uint8), ["empty"]),
        (Image.new("I", (2, 2), 70_000), ["70000", "0 to 65535"]),
        (Image.new("I", (2, 2), -1), ["from -1"]),
        (Image.new("F", (2, 2), 255.0), ["0..1", "255"]),
        (b"", ["not an image", "0 bytes"]),
        (b"hello" * 100, ["not an image", "500 bytes"]),
        (7, ["not a picture", "int", "numpy array"]),
        ("nowhere/cat.jpg", ["no such picture file", "nowhere/cat.jpg"]),
        ("https://example.org/cat.jpg", ["no such picture file", "download it first"]),
        ("n" * 300, ["the picture has a name that no file can have", "300 characters", "check the path"]),
        ("half \ud800", ["the picture has a name that no file can have"]),
        ("data:image/png;base64," + "A" * 9000, ["a name that no file can have", "pass the bytes"]),
        ("a\0b", [r"a\x00b"]),
    ],
)
def test_what_is_refused_says_why(source: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        open_picture(source)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.exit_code == 2


def test_damaged_files_are_named(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"):
        path = tmp_path / f"half.{kind.lower()}"
        whole = saved(noise, kind)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UsageError, match=path.name):
            open_picture(path)
    with pytest.raises(UsageError, match="no regular file"):
        open_picture(tmp_path)


def test_bombs_are_refused_before_they_are_decompressed() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (12_000, 60_000):  # our limit is 134 million pixels, Pillow's own error starts at 179 million
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        with pytest.raises(UsageError, match="too large"):
            open_picture(bomb)
    with pytest.raises(UsageError, match=r"3x3 = 9 pixels\n  expected: at most 8 pixels"):
        open_picture(Image.new("L", (3, 3)), max_pixels=8)


def test_postscript_is_not_run() -> None:
    with pytest.raises(UsageError, match="not an image"):
        open_picture(saved(Image.new("RGB", (4, 4)), "EPS"))


def test_the_source_is_not_changed() -> None:
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    open_picture(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (255, 0, 0, 0)


_PEAK = """
import resource, sys
from PIL import Image
from luvc_export.bundle.manifest import ImageInput
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.media.preprocess import preprocess, tile_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spec = ImageInput((672, 672), "pad", (128, 128, 128))
tile_picture(open_picture(open_picture(sys.argv[1], need=(672, 672))), spec)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB")
def test_a_very_large_jpeg_is_decoded_once_and_small(tmp_path: Path) -> None:
    """108 million pixels took 1.34 GB: decoded whole, turned, converted and opened again, a copy each."""
    path = tmp_path / "large.jpg"
    Image.new("L", (12000, 9000), 90).save(path, quality=20)
    run = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 300 * 1024


def test_a_reduced_picture_is_placed_as_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned by EXIF, of sides that no power of two divides: same places, nearly the same pixels, in every fit."""
    y, x = np.mgrid[:901, :1203]
    smooth = np.stack([128 + 100 * np.sin(x / 90), 128 + 100 * np.cos(y / 70), (x + y) / 9], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(smooth).save(path, quality=95, exif=exif)
    assert open_picture(path, need=(56, 84)).size == (901, 1203)
    monkeypatch.setattr(pictures, "EXACT_PIXELS", 10_000)
    small, whole = open_picture(path, need=(56, 84)), open_picture(path)
    assert picture_size(small) == whole.size == (901, 1203)
    assert 2 * 84 <= small.width < whole.width / 3
    assert open_picture(small) is small
    fits: tuple[Fit, ...] = ("pad", "stretch", "crop")
    for fit in fits:
        reduced, right = (tile_picture(item, ImageInput((56, 84), fit, (0, 0, 0)))[0] for item in (small, whole))
        assert reduced.placement == right.placement
        assert np.abs(reduced.pixels.astype(int) - right.pixels).max() <= 4
