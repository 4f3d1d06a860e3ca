"""A film, a folder of frames, or an animated picture -> frames sampled evenly in time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from PIL import Image

from luvc_export.core.files.folders import check_name, list_names
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import UsageError
from luvc_export.runtime.media.film import HEAD, MAX_BYTES, container_of, decode_film, ffmpeg, film_too_large
from luvc_export.runtime.media.picture_limits import MAX_FRAMES, too_large
from luvc_export.runtime.media.pictures import Picture, open_picture

#: What a list of frames, or a folder, is taken for.
DEFAULT_FPS = 2.0
#: Frames a second, at most; as the server's.
MAX_FPS = 1000
#: Where neither the plan nor the caller says how many.
DEFAULT_FRAMES = 16

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
        return _animation(source, frames, fps, f"{len(source)} bytes")
    path = Path(source)
    check_name(path, "the video")
    if path.is_dir():
        return _folder(path, frames, fps or DEFAULT_FPS, progress)
    if not path.is_file():
        raise UsageError(
            "there is no such video", where=str(path), expected="a film, a folder of frames or an animated picture"
        )
    with open_regular(path, links=True) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise film_too_large(str(path))
    container = container_of(data[:HEAD])
    if container is not None:
        return _film(data, container, frames, fps, str(path))
    return _animation(data, frames, fps, str(path))


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


def _animation(data: bytes, frames: int, fps: float | None, where: str) -> Sampled:
    from luvc_export.runtime.media.animation import decode_animation

    taken = decode_animation(data, frames, fps, DEFAULT_FPS, where)
    return Sampled(taken.frames, len(taken.frames) / taken.seconds, taken.of)


def _by_number(name: str) -> list[tuple[int, int | str]]:
    """Sort key: runs of digits count by value, so that 10.png follows 9.png."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part)) if index % 2 else (0, part) for index, part in enumerate(parts)]


def _check_count(count: int, where: str) -> None:
    if count > MAX_FRAMES:
        raise too_large(where, f"more than {MAX_FRAMES:,} frames", f"at most {MAX_FRAMES:,}")
