"""Questions in files, one JSON object a line: what ``--cases``, ``--data`` and ``luvc-export batch`` read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.errors import UsageError
from luvc_export.runtime.media.video import DEFAULT_FRAMES
from luvc_export.runtime.prompt.question import Question, question
from luvc_export.runtime.prompt.request_fields import check_fields

_FIELDS = ("id", "image", "video", "fps", "prompt", "answer", "kind", "adapter")


@dataclass(frozen=True)
class FileCase:
    """A case from a file.

    Args:
        images: Pictures, before the text.
        prompt: The user's text alone.
        answer: What is right, or None where nobody knows.
        kind: Type of question.
        picture: Cluster: questions with the same number are not independent of each other.
        video: A film, a folder of frames or an animated picture, or the frames themselves. It stands after the pictures
            and before the text.
        fps: Frames a second; None takes what the video's file says.
        id: What its author calls it.
        adapter: Who shall answer, of the adapters of a batch.
    """

    images: tuple[Path, ...]
    prompt: str
    answer: str | None = None
    kind: str = "question"
    picture: int = 0
    video: Path | tuple[Any, ...] | None = None
    fps: float | None = None
    id: str | int | None = None
    adapter: str | None = None


def question_of(
    images: Sequence[Any], prompt: str, video: Any = None, fps: float | None = None, frames: int | None = None
) -> Question:
    """A case as the runtime takes questions; of a video's file at most ``frames`` frames are read.

    Raises:
        UsageError: The video cannot be read.
    """
    return question(list(images), prompt, None, video, fps, frames or DEFAULT_FRAMES)


def case_id(line: str) -> str | int | None:
    """What the author of a line calls it, whatever else is wrong with the line; None where that cannot be read."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    own = data.get("id") if isinstance(data, dict) else None
    return own if isinstance(own, str | int) and not isinstance(own, bool) else None


def parse_case(
    line: str, where: str, folder: Path, options: Mapping[str, str] | None = None, alone: bool = False
) -> FileCase:
    """Read one line.

    Its fields: ``prompt``, ``image`` (a path or a list of them, relative to ``folder``) or ``video`` (a film, a
    folder of frames or an animated picture, with ``fps``), and optionally ``id``, ``answer``, ``kind`` and ``adapter``.
    Labels of requests (``user``, ``metadata``: ``request_fields``) pass.

    Args:
        line: JSON.
        where: The line's place, for errors.
        folder: The file's.
        options: What is said beside the file, by name, and where: see ``request_fields.hint``.
        alone: A picture needs no prompt, which is empty then.

    Raises:
        UsageError: It is no such object, or a picture is not there.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("this line is not JSON", where=where, got=str(error)) from error
    prompt = data.get("prompt", "") if isinstance(data, dict) else None
    if not isinstance(prompt, str) or not (prompt or (alone and data.get("image"))):
        raise UsageError(
            "a case needs a prompt", where=where, got=line[:80], expected='{"image": ..., "prompt": "..."}'
        )
    unheard = check_fields(data, _FIELDS, "a case", where, options or {})
    stated = data.get("image", [])
    names = stated if isinstance(stated, list) else [stated]
    answer, video, fps, own = data.get("answer"), data.get("video"), data.get("fps"), data.get("id")
    texts = all(isinstance(name, str) for name in names) and isinstance(answer, str | None)
    adapter = data.get("adapter")
    texts = texts and isinstance(adapter, str | None)
    timed = fps is None or (isinstance(fps, int | float) and not isinstance(fps, bool) and video is not None)
    named = isinstance(own, str | int | None) and not isinstance(own, bool)
    if unheard or not (texts and timed and named) or not isinstance(video, str | None):
        raise UsageError(
            "a field of this case is wrong",
            where=where,
            got=f"unknown {unheard}" if unheard else line[:80],
            expected="image (text or list of text) or video (text, with fps), prompt, "
            "optionally id (text or number), answer, kind and adapter",
        )
    images = tuple(folder / name for name in names)
    for image in images:
        if not image.is_file():
            raise UsageError("a picture of this case is not there", where=where, got=str(image))
    clip = None if video is None else folder / video
    if clip is not None and not clip.exists():
        raise UsageError("a video of this case is not there", where=where, got=str(clip))
    return FileCase(images, prompt, answer, str(data.get("kind", "question")), 0, clip, fps, own, adapter)
