"""Cases of a pack: pictures, a prompt, and what the reference answered; small, lossless, without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.cases import Case
from luvc_export.core.files.folders import make_folder
from luvc_export.core.files.safe_files import create, write_new
from luvc_export.errors import BundleError
from luvc_export.packing.answer import Answer
from luvc_export.packing.record import CASES
from luvc_export.runtime.media.pictures import open_picture

_LIST, _ARRAYS = "cases.json", "reference.npz"


@dataclass(frozen=True)
class Stored:
    """One case of a pack: pictures are PNG files, and ``answer`` is the reference's."""

    name: str
    pictures: tuple[Path, ...]
    prompt: str
    answer: Answer


def write(folder: Path, cases: Sequence[Case], answers: Sequence[Answer]) -> None:
    """Write ``cases`` with the reference's ``answers`` into ``folder``, which is made."""
    make_folder(folder)
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
