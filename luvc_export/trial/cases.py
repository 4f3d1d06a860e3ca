"""What is asked in a trial: pictures of the demo, drawn here, so that nobody's own are needed.

Right answers are left out: parity compares two models, and one that was never shown such pictures may know none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luvc_export.core.files.folders import make_folder, own_folder
from luvc_export.core.files.safe_files import whole, write_whole
from luvc_export.errors import LuvcError

QUESTIONS = 6
_SEED = 20260


def write(folder: Path) -> Path:
    """Draw the pictures into ``folder`` and return the cases as JSON Lines; fonts missing, they are noise.

    They are the same each time, and drawn each time: a list that lay there could name pictures of somebody else's.

    Raises:
        UsageError: ``folder`` is a link.
    """
    from PIL import Image

    listed, lines = folder / "cases.jsonl", []
    make_folder(folder.parent)
    own_folder(folder)
    for number, (picture, prompt) in enumerate(_drawn()):
        name = f"case-{number}.png"
        with whole(folder / name) as file:
            Image.fromarray(picture).save(file, "PNG")
        lines.append(json.dumps({"image": name, "prompt": prompt}))
    write_whole(listed, "\n".join(lines) + "\n")
    return listed


def _drawn() -> list[tuple[Any, str]]:
    import numpy as np

    from luvc_export.demo.questions import cases

    try:
        single = (case for case in cases("heldout", 10 * QUESTIONS, _SEED) if len(case.images) == 1)
        return [(case.images[0], case.prompt) for case, _ in zip(single, range(QUESTIONS), strict=False)]
    except (LuvcError, ImportError):
        random = np.random.default_rng(_SEED)
        noise = [random.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(QUESTIONS)]
        return [(picture, "What do you see?") for picture in noise]
