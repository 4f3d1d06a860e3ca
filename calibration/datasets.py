"""Calibration sets: pictures and prompts in a fixed order with a hash, from a folder, a JSON Lines file or a task.

A folder holds pictures, each with its prompt in a text file of the same name beside it (``cat.jpg``, ``cat.txt``) or
all with one ``prompt``; they are taken in the order of their names. A set that says nothing about a model's ranges is
refused: empty, of one picture only, or with a picture that cannot be read. ``drawn`` is pictures of this package
(``calibration.drawn``), for who has none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luvc_export.bundle.manifest import CalibrationData
from luvc_export.calibration import drawn, tasks
from luvc_export.calibration.cases import Case, asked, read_jsonl
from luvc_export.core.files.folders import check_name, walk
from luvc_export.core.files.text import read_text
from luvc_export.errors import Progress, UsageError, did_you_mean
from luvc_export.runtime.media.pictures import Picture, open_picture
from luvc_export.runtime.prompt.case_lines import FileCase
from luvc_export.runtime.prompt.question import VideoClip

#: Width and height at which a very large picture tells itself from others.
_HASHED = (1024, 1024)

#: Cases taken where nobody says how many.
COUNT = 256


@dataclass(frozen=True)
class CalibrationSet:
    """Cases to calibrate on, checked.

    Attributes:
        name: Where it is from: a path or a task.
        cases: In order. Cases that share a picture share ``Case.picture``.
        pixels: Hash of each picture and frame of each case.
        longest: Tokens an answer may have.
        stops: Whether a right answer must end.
    """

    name: str
    cases: tuple[Case, ...]
    pixels: tuple[tuple[str, ...], ...]
    longest: int = 32
    stops: bool = False

    @property
    def sha256(self) -> str:
        """Of pixels, prompts and answers, in order."""
        digest = hashlib.sha256()
        for case, pixels in zip(self.cases, self.pixels, strict=True):
            digest.update(repr((pixels, case.prompt, case.answer)).encode())
        return digest.hexdigest()

    @property
    def pictures(self) -> int:
        """Clusters of cases that share no picture with each other."""
        return len({case.picture for case in self.cases})

    @property
    def known(self) -> bool:
        """Whether every case has a right answer."""
        return all(case.answer is not None for case in self.cases)

    def split(self, share: float = 0.5) -> tuple[CalibrationSet, CalibrationSet]:
        """Two sets that share no picture: about ``share`` of the clusters, spread evenly, and the rest.

        Cases without a picture are divided by themselves: neither set is without pictures.

        Raises:
            UsageError: There are too few pictures to divide.
        """
        shown = {case.picture: bool(len(case.images) or getattr(case, "video", None)) for case in self.cases}
        clusters, text = ([name for name, seen in shown.items() if seen is wanted] for wanted in (True, False))
        taken = {c for i, c in enumerate(clusters) if int((i + 1) * share) > int(i * share)}
        enough = 0 < len(taken) < len(clusters)
        taken |= {c for i, c in enumerate(text) if int((i + 1) * share) > int(i * share)}
        if not enough:
            raise UsageError(
                "the calibration set has too few pictures to hold some out",
                where=self.name,
                got=f"{len(clusters)} pictures, {share:g} of them to be taken",
                fix="add pictures",
            )
        first = [case.picture in taken for case in self.cases]
        return self._where(first), self._where([not chosen for chosen in first])

    def _where(self, chosen: Sequence[bool]) -> CalibrationSet:
        cases, pixels = compress(self.cases, chosen), compress(self.pixels, chosen)
        return dataclasses.replace(self, cases=tuple(cases), pixels=tuple(pixels))

    @property
    def record(self) -> CalibrationData:
        """What a bundle records of the data it was made with."""
        return CalibrationData(self.name, self.sha256, len(self.cases), self.pictures)

    def to_json(self) -> dict[str, str | int]:
        """``record`` as plain data."""
        return dataclasses.asdict(self.record)


def load(
    source: str | Path,
    *,
    count: int = COUNT,
    prompt: str | None = None,
    longest: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> CalibrationSet:
    """Read and check a calibration set.

    Args:
        source: A task (its ``search`` part), ``drawn``, a folder of pictures, or a JSON Lines file (see
            ``cases.read_jsonl``).
        count: Cases taken at most, the first ones.
        prompt: For pictures of a folder that have no text file.
        longest: Tokens an answer may have; the task's own, or 32.
        progress: Told (stage, fraction done).

    Raises:
        UsageError: No such set, nothing in it, a picture that cannot be read, or all pictures alike.
    """
    if count < 1:
        raise UsageError("a calibration set needs at least one case", where="count", got=count)
    name, path = str(source), Path(source)
    check_name(path, "the calibration set")
    task = tasks.find(name) if name in tasks.names() else None
    entries: Sequence[Any]
    if task:
        entries = tuple(task.cases(task.search[0], count, task.search[1]))
    elif name == drawn.NAME:
        entries = tuple(drawn.cases(count))
    elif path.is_dir():
        entries = _folder(path, prompt)[:count]
    elif path.is_file():
        entries = tuple(islice(read_jsonl(path), count))
    else:
        raise UsageError(
            "there is no such calibration set",
            where="--data",
            got=name,
            expected="a folder of pictures, a JSON Lines file, drawn (pictures of this package), "
            f"or a task: {did_you_mean(name, tasks.names())}",
        )
    pixels = []
    for case in entries:
        pixels.append(tuple(_pixels(picture) for picture in _shown(case)))
        progress("reading the calibration set", len(pixels) / len(entries))
    different = len({key for keys in pixels for key in keys})
    if different < 2:
        raise UsageError(
            "all pictures of the calibration set are identical" if different else "the cases show no pictures",
            where=name,
            got=f"{len(entries)} cases",
            expected="at least two different pictures: ranges of one say nothing about others",
        )
    cases = tuple(entries) if task else _clustered(entries, pixels)
    return CalibrationSet(
        name, cases, tuple(pixels), longest or (task.longest if task else 32), task.stops if task else False
    )


def _folder(folder: Path, prompt: str | None) -> list[FileCase]:
    extensions = Image.registered_extensions()
    paths = sorted(folder / name for name in walk(folder, links=True) if Path(name).suffix.lower() in extensions)
    if not paths:
        raise UsageError("the calibration set is empty", where=str(folder), expected="pictures, such as .png or .jpg")
    cases = []
    for path in paths:
        beside = path.with_suffix(".txt")
        text = read_text(beside, UsageError, "the prompt").strip() if beside.is_file() else prompt
        if not text:
            raise UsageError(
                "a picture of the calibration set has no prompt",
                where=str(path),
                expected=f"text in {beside.name}",
                fix="write it there, or pass --prompt for every picture without one",
            )
        cases.append(FileCase((path,), text))
    return cases


def _clustered(cases: Sequence[FileCase], pixels: Sequence[tuple[str, ...]]) -> tuple[Case, ...]:
    """Give all questions that share a picture, by its pixels and through others, one cluster."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    owners = [keys or (f"case {index}",) for index, keys in enumerate(pixels)]
    for keys in owners:
        for key in keys[1:]:
            parent[root(key)] = root(keys[0])
    numbers: dict[str, int] = {}
    clusters = [numbers.setdefault(root(keys[0]), len(numbers)) for keys in owners]
    return tuple(dataclasses.replace(case, picture=number) for case, number in zip(cases, clusters, strict=True))


def _shown(case: Case) -> list[Picture]:
    media = asked(case).media
    return [one for item in media for one in (item.frames if isinstance(item, VideoClip) else (item,))]


def _pixels(picture: Picture) -> str:
    pixels = np.ascontiguousarray(open_picture(picture, need=_HASHED))
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.data)
    return digest.hexdigest()
