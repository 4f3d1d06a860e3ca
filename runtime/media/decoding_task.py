"""What a helper process does for ``decoding`` and ``animation``: any picture, or frames of an animated one."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

from PIL import Image

from luvc_export.errors import UsageError
from luvc_export.runtime.media import picture_limits
from luvc_export.runtime.media.animation import read_header
from luvc_export.runtime.media.film import MAX_TAKEN_PIXELS
from luvc_export.runtime.media.pictures import open_picture, open_stream

_FORMATS = ("GIF", "WEBP", "PNG")


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes | bytearray]:
    """Decode, or say what is wrong."""
    picture_limits.allow(request["allowed"])
    try:
        return _frames(request, data) if "frames" in request else _picture(request, data)
    except UsageError as error:
        return error.to_json(), b""


def _picture(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    need = None if request["need"] is None else (request["need"][0], request["need"][1])
    stream = open_stream(io.BytesIO(data), request["max_pixels"], request["where"], need, here=True)
    return {"size": stream.size, "true_size": stream.info.get(picture_limits.TRUE_SIZE)}, stream.tobytes()


def _frames(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
    """Frames as ``film_task`` gives them."""
    where, fps = request["where"], request["fps"]
    animation = read_header(data, where)
    count = len(animation.durations)
    ends = animation.ends(request["default_fps"])
    if fps is not None:
        ends = [(index + 1) * 1000 / fps for index in range(count)]
    wanted = min(request["frames"], count)
    times = [index * ends[-1] / wanted for index in range(wanted)]
    sizes, pixels = [], bytearray()
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            warnings.simplefilter("ignore")
            for time in times:
                picture = _frame(image, next(index for index, end in enumerate(ends) if end > time), animation.size)
                factor = math.ceil(math.sqrt(picture.width * picture.height * wanted / MAX_TAKEN_PIXELS))
                picture = picture.reduce(factor) if factor > 1 else picture
                sizes.append(picture.size)
                pixels += picture.tobytes()
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # decoders raise almost anything on bad files
        got = f"{type(error).__name__}: {error}"[:200]
        raise UsageError(
            "the video is damaged or truncated", where=where, got=got, fix="copy or download it again"
        ) from error
    return {"sizes": sizes, "times": [time / 1000 for time in times], "seconds": ends[-1] / 1000, "of": count}, pixels


def _frame(image: Image.Image, index: int, size: tuple[int, int]) -> Image.Image:
    """A frame of its own, upright and RGB; frames before it are decoded on the way."""
    image.seek(index)
    image.load()
    if image.size[0] > size[0] or image.size[1] > size[1]:
        raise ValueError(f"a frame of {image.size[0]}x{image.size[1]} on a canvas of {size[0]}x{size[1]}")
    return open_picture(image.copy())
