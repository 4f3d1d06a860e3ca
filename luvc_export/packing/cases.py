"""Cases of a pack: pictures, a prompt, and what the reference answered; small, lossless, without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luvc_export.calibration.cases import Case
from luvc_export.calibration.drawn import DrawnCase
from luvc_export.calibration.tasks import Task
from luvc_export.core.files.safe_files import create, write_new
from luvc_export.errors import BundleError
from luvc_export.packing.answer import Answer
from luvc_export.packing.record import CASES
from luvc_export.runtime.media.pictures import open_picture

_LIST, _ARRAYS = "cases.json", "reference.npz"
#: Questions a task may have about one picture; more of them only mean fewer cases than asked for.
_QUESTIONS = 64
_PROMPTS = ("Describe the picture.", "What is in the middle?", "Which colours are there?", "What stands out?")


@dataclass(frozen=True)
class Stored:
    """One case of a pack: pictures are PNG files, and ``answer`` is the reference's."""

    name: str
    pictures: tuple[Path, ...]
    prompt: str
    answer: Answer


def write(folder: Path, cases: Sequence[Case], answers: Sequence[Answer]) -> None:
    """Write ``cases`` with the reference's ``answers`` into ``folder``."""
    entries: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for index, (case, answer) in enumerate(zip(cases, answers, strict=True)):
        files = [f"{index}-{number}.png" for number in range(len(case.images))]
        for file, picture in zip(files, case.images, strict=True):
            with create(folder / file) as drawn:
                open_picture(picture).save(drawn, "PNG")
        entries.append(
            {
                "name": f"{index} {case.kind}",
                "pictures": files,
                "prompt": case.prompt,
                "prompt_ids": answer.prompt_ids,
                "token_ids": answer.token_ids,
                "text": answer.text,
            }
        )
        arrays[f"{index}.logits"] = answer.logits
        arrays |= {f"{index}.kept.{layer}": kept for layer, kept in answer.kept.items()}
    write_new(folder / _LIST, (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode())
    with create(folder / _ARRAYS) as stored:
        np.savez_compressed(stored, **arrays)  # type: ignore[arg-type]


def read(pack: Path) -> list[Stored]:
    """Read the cases of a pack, whose files have been checked.

    Raises:
        BundleError: They are not what ``write`` writes.
    """
    folder = pack / CASES
    try:
        entries = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            return [_case(folder, index, entry, arrays) for index, entry in enumerate(entries)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError("the stored cases cannot be read", where=str(folder), got=str(error)) from error


def generated(size: tuple[int, int], count: int) -> list[Case]:
    """Pictures of ``size`` (height, width) and fixed prompts for a checkpoint that no task is known of.

    They compare numbers and ask nothing sensible. Every pixel differs from its neighbours, so that no two visual
    tokens are equal and a tie does not decide which of them stays.
    """
    prompts = (_PROMPTS[seed % len(_PROMPTS)] for seed in range(count))
    return [DrawnCase((_picture(size, seed),), asked, "generated", seed) for seed, asked in enumerate(prompts)]


def of_task(task: Task, count: int, images: int) -> list[Case]:
    """``count`` questions of a task's report split, each about other pictures, ``images`` at most; kinds in turn."""
    split, seed = task.report
    chosen: list[Case] = []
    questions = (case for case in task.cases(split, _QUESTIONS * count, seed) if len(case.images) <= images)
    for index, (_, group) in enumerate(groupby(questions, lambda case: case.picture)):
        about = list(group)
        chosen.append(about[index % len(about)])
        if len(chosen) == count:
            break
    return chosen


def _picture(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A few soft blobs of colour under fine noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        size[::-1], Image.Resampling.BICUBIC
    )
    noise = random.integers(-24, 25, (*size, 3))
    mixed: NDArray[np.uint8] = np.clip(np.asarray(coarse, np.int64) + noise, 0, 255).astype(np.uint8)
    return mixed


def _case(folder: Path, index: int, entry: dict[str, Any], arrays: Any) -> Stored:
    kept = {int(name.rsplit(".", 1)[1]): arrays[name] for name in arrays.files if name.startswith(f"{index}.kept.")}
    answer = Answer(
        prompt_ids=tuple(entry["prompt_ids"]),
        token_ids=tuple(entry["token_ids"]),
        text=str(entry["text"]),
        logits=arrays[f"{index}.logits"],
        kept=dict(sorted(kept.items())),
    )
    return Stored(entry["name"], tuple(folder / name for name in entry["pictures"]), entry["prompt"], answer)
