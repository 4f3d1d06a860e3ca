"""What is asked: pictures or a video, a prompt, perhaps the right answer. From a task, or from the user's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from luvc_export.core.files.folders import check_name
from luvc_export.core.files.text import read_text
from luvc_export.errors import UsageError
from luvc_export.runtime.prompt.case_lines import FileCase, parse_case, question_of
from luvc_export.runtime.prompt.question import Question


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


def asked(case: Case, frames: int | None = None) -> Question:
    """A case as the runtime takes questions; of a video's file at most ``frames`` frames are read.

    Raises:
        UsageError: The video cannot be read.
    """
    return question_of(case.images, case.prompt, getattr(case, "video", None), getattr(case, "fps", None), frames)


def read_jsonl(path: Path, alone: bool = False) -> list[FileCase]:
    """Read cases, one JSON object a line.

    What a line holds, and ``alone``: ``runtime.prompt.case_lines.parse_case``.

    Raises:
        UsageError: The file is missing or empty, a line is no such object, or a picture is not there.
    """
    check_name(path, "the file of cases")
    if not path.is_file():
        raise UsageError("there is no such file of cases", where=str(path), fix="--cases FILE.jsonl, or --task glyph")
    cases: list[FileCase] = []
    clusters: dict[Any, int] = {}
    for number, line in enumerate(read_text(path, UsageError, "the file of cases").splitlines(), 1):
        if line.strip():
            case = parse_case(line, f"{path}: line {number}", path.parent, alone=alone)
            cases.append(replace(case, picture=clusters.setdefault((case.images, case.video), len(clusters))))
    if not cases:
        raise UsageError(
            "the file holds no case", where=str(path), expected='lines such as {"image": ..., "prompt": ...}'
        )
    return cases
