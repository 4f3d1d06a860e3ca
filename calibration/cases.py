"""What is asked: pictures or a video, a prompt, perhaps the right answer. From a task, or from the user's file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luvc_export.errors import UsageError
from luvc_export.runtime.media.video import DEFAULT_FPS, DEFAULT_FRAMES, open_video
from luvc_export.runtime.prompt.encoder import Question, question


class Case(Protocol):
    """One question about pictures; tasks bring classes of their own.

    Attributes:
        images: Pictures (path, bytes, PIL image or uint8 array), all before the text.
        prompt: The user's text alone.
        answer: What is right, or None where nobody knows.
        kind: Type of question.
        picture: Cluster: questions with the same number are not independent of each other.
    """

    @property
    def images(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def prompt(self) -> str: ...  # noqa: D102
    @property
    def answer(self) -> str | None: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def picture(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class FileCase:
    """A case from a file; see ``Case``.

    ``video`` is a folder of frames or an animated picture, or the frames themselves; ``fps`` None takes what its file
    says. It stands after the pictures and before the text.
    """

    images: tuple[Path, ...]
    prompt: str
    answer: str | None = None
    kind: str = "question"
    picture: int = 0
    video: Path | tuple[Any, ...] | None = None
    fps: float | None = None


def asked(case: Case, frames: int | None = None) -> Question:
    """A case as the runtime takes questions; of a video's file at most ``frames`` frames are read.

    Raises:
        UsageError: The video cannot be read.
    """
    video, fps = getattr(case, "video", None), getattr(case, "fps", None)
    if isinstance(video, Path):
        sampled = open_video(video, frames or DEFAULT_FRAMES, fps)
        video, fps = sampled.frames, sampled.fps
    return question(list(case.images), case.prompt, None, video, fps or DEFAULT_FPS)


def read_jsonl(path: Path) -> list[FileCase]:
    """Read cases, one JSON object a line.

    Its fields: ``prompt``, ``image`` (a path or a list of them, relative to the file) or ``video`` (a folder of frames
    or an animated picture, with ``fps``), and optionally ``answer`` and ``kind``.

    Raises:
        UsageError: The file is missing or empty, a line is no such object, or a picture is not there.
    """
    if not path.is_file():
        raise UsageError("there is no such file of cases", where=str(path), fix="--cases FILE.jsonl, or --task glyph")
    found: list[FileCase] = []
    clusters: dict[Any, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_question(line, f"{path}: line {number}", path.parent, clusters))
    if not found:
        raise UsageError(
            "the file holds no case", where=str(path), expected='lines such as {"image": ..., "prompt": ...}'
        )
    return found


def _question(line: str, where: str, folder: Path, clusters: dict[Any, int]) -> FileCase:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UsageError("this line is not JSON", where=where, got=str(error)) from error
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str) or not data["prompt"]:
        raise UsageError(
            "a case needs a prompt", where=where, got=line[:80], expected='{"image": ..., "prompt": "..."}'
        )
    unknown = sorted(set(data) - {"image", "video", "fps", "prompt", "answer", "kind"})
    given = data.get("image", [])
    names = given if isinstance(given, list) else [given]
    answer, video, fps = data.get("answer"), data.get("video"), data.get("fps")
    texts = all(isinstance(name, str) for name in names) and isinstance(answer, str | None)
    timed = fps is None or (isinstance(fps, int | float) and not isinstance(fps, bool) and video is not None)
    if unknown or not texts or not timed or not isinstance(video, str | None):
        raise UsageError(
            "a field of this case is wrong",
            where=where,
            got=f"unknown {unknown}" if unknown else line[:80],
            expected="image (text or list of text) or video (text, with fps), prompt, optionally answer and kind",
        )
    images = tuple(folder / name for name in names)
    for image in images:
        if not image.is_file():
            raise UsageError("a picture of this case is not there", where=where, got=str(image))
    clip = None if video is None else folder / video
    if clip is not None and not clip.exists():
        raise UsageError("a video of this case is not there", where=where, got=str(clip))
    cluster = clusters.setdefault((images, clip), len(clusters))
    return FileCase(images, data["prompt"], answer, str(data.get("kind", "question")), cluster, clip, fps)
