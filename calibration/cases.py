"""What is asked: pictures, a prompt, perhaps the right answer. From a task, or from a JSON Lines file of the user's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luvc_export.errors import UsageError


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
    """A case from a file; see ``Case``."""

    images: tuple[Path, ...]
    prompt: str
    answer: str | None = None
    kind: str = "question"
    picture: int = 0


def read_jsonl(path: Path) -> list[FileCase]:
    """Read cases, one JSON object a line.

    Its fields: ``image`` (a path or a list of them, relative to the file), ``prompt``, and optionally ``answer`` and
    ``kind``.

    Raises:
        UsageError: The file is missing or empty, a line is no such object, or a picture is not there.
    """
    if not path.is_file():
        raise UsageError("there is no such file of cases", where=str(path), fix="--cases FILE.jsonl, or --task glyph")
    found: list[FileCase] = []
    clusters: dict[tuple[Path, ...], int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_question(line, f"{path}: line {number}", path.parent, clusters))
    if not found:
        raise UsageError(
            "the file holds no case", where=str(path), expected='lines such as {"image": ..., "prompt": ...}'
        )
    return found


def _question(line: str, where: str, folder: Path, clusters: dict[tuple[Path, ...], int]) -> FileCase:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UsageError("this line is not JSON", where=where, got=str(error)) from error
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str) or not data["prompt"]:
        raise UsageError(
            "a case needs a prompt", where=where, got=line[:80], expected='{"image": ..., "prompt": "..."}'
        )
    unknown = sorted(set(data) - {"image", "prompt", "answer", "kind"})
    given = data.get("image", [])
    names = given if isinstance(given, list) else [given]
    answer = data.get("answer")
    if unknown or not all(isinstance(name, str) for name in names) or not isinstance(answer, str | None):
        raise UsageError(
            "a field of this case is wrong",
            where=where,
            got=f"unknown {unknown}" if unknown else line[:80],
            expected="image (text or list of text), prompt, and optionally answer and kind as text",
        )
    images = tuple(folder / name for name in names)
    for image in images:
        if not image.is_file():
            raise UsageError("a picture of this case is not there", where=where, got=str(image))
    return FileCase(
        images, data["prompt"], answer, str(data.get("kind", "question")), clusters.setdefault(images, len(clusters))
    )
