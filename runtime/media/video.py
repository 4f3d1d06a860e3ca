"""A film, a folder of frames, or an animated picture -> frames sampled evenly in time."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from PIL import Image, UnidentifiedImageError

from luvc_export.core.files.folders import check_name, list_names
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import UsageError
from luvc_export.runtime.media.film import HEAD, MAX_BYTES, container_of, decode_film, ffmpeg, film_too_large
from luvc_export.runtime.media.picture_limits import check_file
from luvc_export.runtime.media.pictures import MAX_PIXELS, Picture, open_picture

#: Frames a folder or file may have.
MAX_FRAMES = 100_000
#: Pixels of all frames of one file: they must be decompressed one after another. 2,000 frames of 1920x1080.
MAX_FILE_PIXELS = 2**32
#: What a list of frames, or a folder, is taken for.
DEFAULT_FPS = 2.0
#: Frames a second, at most; as the server's.
MAX_FPS = 1000
#: Where neither the plan nor the caller says how many.
DEFAULT_FRAMES = 16

_FORMATS = ("GIF", "WEBP", "PNG")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sampled:
    """Frames of a video, upright RGB, and how many of them make a second. ``of`` is how many there were.

    ``times`` are seconds from the start at which each is shown, where the source says so.
    """

    frames: tuple[Image.Image, ...]
    fps: float
    of: int
    times: tuple[float, ...] | None = None

    def taken(self) -> FramesTaken:
        """How much of it these frames are."""
        return FramesTaken(len(self.frames), self.of, self.fps, self.times)


@dataclass(frozen=True)
class FramesTaken:
    """How much of a video is looked at: frames, of how many, and how many of those looked at make a second.

    ``times`` are seconds from the start at which each is shown, where the source says so.
    """

    frames: int
    of: int
    fps: float
    times: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, with ``seconds``, how long the video is, and ``every_seconds``, how far apart the frames are."""
        times = None if self.times is None else list(self.times)
        facts = {"frames": self.frames, "of": self.of, "fps": self.fps, "times": times}
        return {**facts, "seconds": self.frames / self.fps, "every_seconds": 1 / self.fps}

    def line(self) -> str:
        """For people; of a video with more frames than are looked at, how far apart those are."""
        if self.frames == self.of:
            return f"all {self.frames} frames, {self.fps:.3g} a second"
        seconds = self.frames / self.fps
        apart = f"one every {1 / self.fps:.3g} s of {seconds:.4g} s"
        return f"longer than is looked at: {self.frames} of {self.of} frames, {apart}"


#: What a question may carry for a video: a film, a folder or an animated picture (its path, or the bytes of a file),
#: frames in order, or what ``open_video`` gave.
VideoSource: TypeAlias = "str | os.PathLike[str] | bytes | Sequence[Picture] | Sampled"


def spread(frames: Sequence[_T], count: int) -> tuple[_T, ...]:
    """``count`` of ``frames``, evenly; some more than once where there are fewer."""
    return tuple(frames[index * len(frames) // count] for index in range(count))


def check_fps(fps: object) -> None:
    """Check a number of frames a second.

    Raises:
        UsageError: It is no number above 0, or beyond ``MAX_FPS``.
    """
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
        raise UsageError(
            "frames per second is a number above 0", where="fps", got=repr(fps)[:40], expected=f"at most {MAX_FPS:,}"
        )


def open_video(
    source: str | os.PathLike[str] | bytes,
    frames: int = DEFAULT_FRAMES,
    fps: float | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Sampled:
    """Read at most ``frames`` frames, evenly spread over the video.

    Args:
        source: A film, a folder of pictures (in the order of their names, numbers by value) or an animated GIF, WebP or
            PNG; or the bytes of a file.
        frames: At most.
        fps: Frames a second of the source; None takes what the file says, 2 for a folder.
        progress: Told the fraction done.

    Raises:
        UsageError: Nothing there, a still picture, damaged frames, too many or too large ones, or a film that takes too
            much time or memory.
        MachineError: A film, and PyAV is not installed.
    """
    if fps is not None:
        check_fps(fps)
    if frames < 1:
        raise UsageError("a video needs frames", where="frames", got=frames, expected="at least 1")
    if isinstance(source, bytes):
        container = container_of(source[:HEAD])
        if container is not None:
            return _film(source, container, frames, fps, f"{len(source)} bytes")
        return _animation(source, frames, fps, progress)
    path = Path(source)
    check_name(path, "the video")
    if path.is_dir():
        return _folder(path, frames, fps or DEFAULT_FPS, progress)
    if not path.is_file():
        raise UsageError(
            "there is no such video", where=str(path), expected="a film, a folder of frames or an animated picture"
        )
    with open_regular(path, links=True) as file:
        container = container_of(file.read(HEAD))
        if container is not None:
            file.seek(0)
            data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise film_too_large(str(path))
            return _film(data, container, frames, fps, str(path))
    return _animation(path, frames, fps, progress)


def _film(data: bytes, container: str, frames: int, fps: float | None, where: str) -> Sampled:
    taken = decode_film(data, container, frames, where)
    if fps is not None:
        return Sampled(taken.frames, fps * len(taken.frames) / taken.of, taken.of)
    return Sampled(taken.frames, len(taken.frames) / taken.seconds, taken.of, taken.times)


def _folder(path: Path, frames: int, fps: float, progress: Callable[[float], None]) -> Sampled:
    known = Image.registered_extensions()
    names: list[str] = []
    for name in list_names(path):
        if not name.startswith(".") and Path(name).suffix.lower() in known and (path / name).is_file():
            names.append(name)
        _check_count(len(names), str(path))
    if not names:
        raise UsageError("the folder holds no pictures", where=str(path), fix=ffmpeg("FILM", str(path)))
    chosen = spread(sorted(names, key=_by_number), min(frames, len(names)))
    pictures = []
    for index, name in enumerate(chosen):
        pictures.append(open_picture(path / name))
        progress((index + 1) / len(chosen))
    return Sampled(tuple(pictures), fps * len(chosen) / len(names), len(names))


def _animation(path: Path | bytes, frames: int, fps: float | None, progress: Callable[[float], None]) -> Sampled:
    where = f"{len(path)} bytes" if isinstance(path, bytes) else str(path)
    try:
        opened = io.BytesIO(path) if isinstance(path, bytes) else open_regular(path, links=True)
        with warnings.catch_warnings(), opened as file:
            warnings.simplefilter("ignore")  # large: our own limit is checked instead; damaged: it opens or it does not
            with Image.open(file, formats=_FORMATS) as image:
                check_file(image, file, where)
                return _frames_of(image, frames, fps, where, progress)
    except UsageError:
        raise
    except UnidentifiedImageError as error:
        raise UsageError(
            "this file is no film that is read, and no animated picture",
            where=where,
            expected="mp4, mov, mkv, webm, avi, ts, mpg, ogv, flv, GIF, WebP or PNG; or a folder of frames",
            fix=ffmpeg(where, "FRAMES"),
        ) from error
    except Exception as error:  # decoders raise almost anything on bad files
        raise UsageError(
            "the video is damaged or truncated",
            where=where,
            got=f"{type(error).__name__}: {error}",
            fix="copy or download it again",
        ) from error


def _frames_of(
    image: Image.Image, frames: int, fps: float | None, where: str, progress: Callable[[float], None]
) -> Sampled:
    width, height = image.size
    pixels, count = width * height, 0
    if pixels > MAX_PIXELS:
        raise _too_large(where, f"frames of {width}x{height}", f"at most {MAX_PIXELS:,} pixels each")
    count = getattr(image, "n_frames", 1)
    _check_count(count, where)
    if count * pixels > MAX_FILE_PIXELS:
        raise _too_large(where, f"{count} frames of {width}x{height}", f"at most {MAX_FILE_PIXELS:,} pixels in all")
    if count == 1:
        raise UsageError("this is a still picture", where=where, expected="a video", fix="pass it as a picture")
    ends: list[float] = []
    for index in range(count):
        image.seek(index)
        image.load()  # WebP says how long a frame stays only then
        ends.append((ends[-1] if ends else 0.0) + max(float(image.info.get("duration") or 0), 0.0))
        progress(0.5 * (index + 1) / count)
    if fps is not None or not ends[-1] > 0:
        ends = [(index + 1) * 1000 / (fps or DEFAULT_FPS) for index in range(count)]
    wanted = min(frames, count)
    times = [index * ends[-1] / wanted for index in range(wanted)]
    indices = [next(index for index, end in enumerate(ends) if end > time) for time in times]
    pictures = []
    for index, frame in enumerate(indices):
        image.seek(frame)
        pictures.append(open_picture(image.copy()))
        progress(0.5 + 0.5 * (index + 1) / wanted)
    return Sampled(tuple(pictures), wanted * 1000 / ends[-1], count)


def _by_number(name: str) -> list[tuple[int, int | str]]:
    """Sort key: runs of digits count by value, so that 10.png follows 9.png."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part)) if index % 2 else (0, part) for index, part in enumerate(parts)]


def _check_count(count: int, where: str) -> None:
    if count > MAX_FRAMES:
        raise _too_large(where, f"more than {MAX_FRAMES:,} frames", f"at most {MAX_FRAMES:,}")


def _too_large(where: str, got: str, expected: str) -> UsageError:
    fix = "take fewer or smaller frames; the model sees a few small ones anyway"
    return UsageError("the video is too large", where=where, got=got, expected=expected, fix=fix)
