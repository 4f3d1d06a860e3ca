"""Any picture a user has -> an upright RGB image: path, bytes, PIL image or array, whatever its colour mode.

Transparency is composited on white. Deeper pictures are scaled to 8 bits, never clipped: 16-bit integers by 1 / 257,
floats from 0..1 by 255. What could mean two things (floats up to 255, 32-bit integers beyond 16 bits) is refused.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NewType, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from luvc_export.core.files.folders import check_name
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import LuvcError, UsageError
from luvc_export.runtime.media.decoding import decode_confined, foreseeable, is_webp, webp_size
from luvc_export.runtime.media.film import HEAD
from luvc_export.runtime.media.picture_limits import TRUE_SIZE, check_file

#: What ``open_picture`` takes.
Picture: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image.Image | NDArray[Any]"

#: What it gives: an upright RGB image, whose size in its file is ``picture_size``.
Opened = NewType("Opened", Image.Image)

#: Pixels a picture may have: 400 MB as RGB. Larger files are refused before they are decompressed.
MAX_PIXELS = 128 * 2**20

#: Pillow hands these to an external program (Ghostscript) or to the operating system: not for untrusted files.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})


#: Above this a JPEG is decoded at half, a quarter or an eighth of its size where more is not needed; up to it every
#: pixel counts, as in transformers. 16 Mi pixels take 64 MiB.
EXACT_PIXELS = 2**24

#: How many pixels a side is left for each that is needed, so that resampling still decides what is seen.
_SPARE = 2


def picture_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture; of one decoded at a reduced scale, those of its file, upright."""
    size: tuple[int, int] = image.info.get(TRUE_SIZE, image.size)
    return size


def open_picture(source: Picture, max_pixels: int = MAX_PIXELS, need: tuple[int, int] | None = None) -> Opened:
    """Open ``source`` as an upright RGB image. One that is that already is returned itself, not a copy.

    Args:
        source: A file's path or its bytes, a PIL image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
            (RGB or RGBA) of uint8, uint16, or float in 0..1.
        max_pixels: Width times height that is accepted; checked before anything is decompressed.
        need: Width and height that it will be fitted to; None for every pixel. A large JPEG may come smaller, never
            smaller than twice that.

    Returns:
        A PIL image of mode RGB, turned as its EXIF orientation says; its size in the file is ``picture_size``.

    Raises:
        UsageError: No such file, not an image, truncated, too large, or values that could mean two things.
    """
    if isinstance(source, np.ndarray):
        _check_size((source.shape[1], source.shape[0]) if source.ndim > 1 else (1, 1), max_pixels, "array")
        return Opened(_from_array(source))
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "PIL image")
        _check_size(source.size, max_pixels, name)
        return _guarded(lambda: _to_rgb(_upright(source), name), name)
    if isinstance(source, bytes | bytearray):
        where, stream = f"{len(source)} bytes", io.BytesIO(source)
        return open_stream(stream, max_pixels, where, need)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        check_name(path, "the picture", fix=_hint(str(path)))
        return _guarded(lambda: _read(path, max_pixels, need), str(path))
    raise UsageError(
        "this is not a picture",
        where="image",
        got=type(source).__name__,
        expected="a path, bytes, a PIL image or a numpy array",
    )


def _read(path: Path, max_pixels: int, need: tuple[int, int] | None) -> Image.Image:
    with open_regular(path, links=True) as file:
        return _decode(file, max_pixels, str(path), need)


def open_stream(
    file: IO[bytes], max_pixels: int, where: str, need: tuple[int, int] | None, here: bool = False
) -> Opened:
    """``open_picture`` of an open file; ``here`` decodes every kind in this process."""
    return _guarded(lambda: _decode(file, max_pixels, where, need, here), where)


def _decode(
    file: IO[bytes], max_pixels: int, where: str, need: tuple[int, int] | None, here: bool = False
) -> Image.Image:
    if not here and is_webp(file.read(HEAD)):
        file.seek(0)
        return decode_confined(file.read(), max_pixels, where, need)
    file.seek(0)
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large: our own limit is checked instead; damaged: it opens or it does not
        with Image.open(file, formats=[name for name in Image.ID if name not in _REFUSED_FORMATS]) as image:
            _check_size(image.size, max_pixels, where)
            if not foreseeable(image, check_file(image, file, where)) and not here:
                file.seek(0)
                return decode_confined(file.read(), max_pixels, where, need)
            width, height = image.size
            if need is not None and width * height > EXACT_PIXELS:
                image.draft(None, (_SPARE * max(need), _SPARE * max(need)))
            reduced = image.size != (width, height)
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
            rgb = _to_rgb(_upright(image), where)
            if reduced:
                rgb.info[TRUE_SIZE] = (height, width) if turned else (width, height)
            return rgb


def pixels_to_decode(data: bytes, need: tuple[int, int] | None) -> int:
    """Pixels that ``open_picture`` of these bytes would decode, read from the header; 0 for what is no picture.

    Args:
        data: A picture file.
        need: See ``open_picture``.
    """
    if is_webp(data[:HEAD]):
        width, height = webp_size(data) or (0, 0)
        return width * height
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[n for n in Image.ID if n not in _REFUSED_FORMATS]) as image:
                if need is not None and image.size[0] * image.size[1] > EXACT_PIXELS:
                    image.draft(None, (_SPARE * max(need), _SPARE * max(need)))
                return int(image.size[0] * image.size[1])
    except Exception:  # decoders raise almost anything; opening it says what is wrong
        return 0


#: EXIF orientations that exchange width and height.
_SIDEWAYS = (5, 6, 7, 8)


def _upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF orientation says; itself where it says nothing."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _hint(name: str) -> str:
    """How to mend a name that no picture has."""
    if name.startswith("data:"):
        return "decode it first and pass the bytes: addresses are not opened"
    return "download it first: addresses are not opened" if ":/" in name else "check the path"


def _guarded(run: Callable[[], Image.Image], where: str) -> Opened:
    """Run a decoder; whatever it raises on a bad file becomes one error that names the file."""
    try:
        return Opened(run())
    except LuvcError:
        raise
    except FileNotFoundError as error:
        raise UsageError("there is no such picture file", where=where, fix=_hint(where)) from error
    except (IsADirectoryError, PermissionError) as error:
        raise UsageError("the picture file cannot be read", where=where, got=error.strerror) from error
    except UnidentifiedImageError as error:
        raise UsageError(
            "this file is not an image, or of a kind Pillow cannot open",
            where=where,
            fix="open it in an image viewer; convert it to PNG or JPEG",
        ) from error
    except Image.DecompressionBombError as error:
        raise UsageError("the picture is too large", where=where, got=str(error)) from error
    except Exception as error:  # decoders raise almost anything (struct.error, zlib.error, IndexError) on bad files
        raise UsageError(
            "the picture is damaged or truncated",
            where=where,
            got=f"{type(error).__name__}: {error}",
            fix="copy or download it again",
        ) from error


def _check_size(size: tuple[int, int], max_pixels: int, where: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise UsageError(
            "the picture is too large",
            where=where,
            got=f"{width}x{height} = {width * height:,} pixels",
            expected=f"at most {max_pixels:,} pixels",
            fix="make it smaller first; the model sees a small picture anyway",
        )
    if not width or not height:
        raise UsageError("the picture is empty", where=where, got=f"{width}x{height} pixels")


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        grey = Image.fromarray(_to_uint8(np.asarray(image), where))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            alpha = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
            grey.putalpha(Image.fromarray(alpha))
        image, mode = grey, grey.mode
    if mode == "LAB":
        to_rgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        converted = ImageCms.applyTransform(image, to_rgb)
        assert converted is not None  # None only with inPlace
        return converted
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _to_uint8(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Scale integers of 16 bits or floats of 0..1 to 0..255."""
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise UsageError(
                "a float picture must lie in 0..1",
                where=where,
                got=f"values from {low:g} to {high:g}",
                fix="divide by its largest possible value, or pass uint8 when it is 0..255",
            )
        return np.asarray(np.rint(values * 255), np.uint8)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UsageError(
            "an integer picture deeper than 16 bits could be scaled in several ways",
            where=where,
            got=f"values from {values.min()} to {values.max()}",
            expected="0 to 65535",
            fix="scale it to uint8 or uint16 first",
        )
    return np.asarray((values.astype(np.uint32) + 128) // 257, np.uint8)


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        raise UsageError(
            "the array does not have the shape of a picture",
            where="array",
            got=list(array.shape),
            expected="[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]",
            fix="array.transpose(1, 2, 0) puts channels last" if first else None,
        )
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.uint16):
        raise UsageError(
            "an array of this type could be scaled in several ways",
            where="array",
            got=array.dtype,
            expected="uint8, uint16, or float in 0..1",
            fix="array.astype(np.uint8) when its values are 0..255",
        )
    narrow = array if array.dtype == np.uint8 else _to_uint8(array, "array")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(narrow)), "array")
