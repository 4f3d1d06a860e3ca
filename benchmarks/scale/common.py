"""What these scripts share: the bundled model as a bundle, and its questions with Session's answers."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luvc_export import export_bundle, make_plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import GlyphCase, cases
from luvc_export.runtime.session import Session

PLAN = "even"


def bundle(folder: Path) -> Path:
    """The bundle of ``$LUVC_BUNDLE``, or one exported to ``folder``."""
    if place := os.environ.get("LUVC_BUNDLE"):
        return Path(place)
    plan = make_plan(str(CHECKPOINT), PLAN, image_size=IMAGE_SIZE)
    export_bundle(str(CHECKPOINT), folder / "demo", {PLAN: plan}, image_size=IMAGE_SIZE, text_capacity=256)
    return folder / "demo"


def png(picture: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))).save(file, "PNG")
    return file.getvalue()


def session(folder: Path) -> Session:
    """What answers are compared with: one question at a time, on the CPU."""
    return Session(folder, "cpu", PLAN, 1)


def questions(count: int) -> Iterator[GlyphCase]:
    """Held-out questions."""
    return cases("heldout", count, 0)


def asked(folder: Path, count: int) -> list[dict[str, Any]]:
    """Questions with their pictures as base64, and Session's answers."""
    own = session(folder)
    return [
        {
            "prompt": case.prompt,
            "images": [base64.b64encode(png(picture)).decode() for picture in case.images],
            "text": own.generate([png(picture) for picture in case.images], case.prompt).text,
        }
        for case in questions(count)
    ]


def write_cases(folder: Path, count: int) -> None:
    """``cases.jsonl`` with pictures beside it."""
    (folder / "pictures").mkdir(parents=True)
    with (folder / "cases.jsonl").open("w", encoding="utf-8") as file:
        for index, case in enumerate(questions(count)):
            names = [f"pictures/{case.picture}-{number}.png" for number in range(len(case.images))]
            for name, picture in zip(names, case.images, strict=True):
                if not (folder / name).exists():
                    (folder / name).write_bytes(png(picture))
            file.write(json.dumps({"id": f"q{index}", "image": names, "prompt": case.prompt}) + "\n")
