"""Pages, and digits on pale and busy grounds: the tasks of ``examples/glyph_deep``, whose model is no part of a wheel.

``glyph-deep`` asks about pages; ``glyph-deep-plain`` and ``glyph-deep-textured`` about digits. Each has the other
grounds as splits too (``plain``, ``textured``, ``pages``), for models that take pictures of several sizes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from luvc_export.calibration.tasks import Task
from luvc_export.errors import MachineError

#: The folder of the examples in a checkout of the repository, whether its packages are linked or not.
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def module(name: str) -> Any:
    """A module of the example.

    Raises:
        MachineError: The examples are not there, as in an installed wheel.
    """
    if not (EXAMPLES / "glyph_deep" / "data" / "cases.py").is_file():
        raise MachineError(
            "the task glyph-deep needs the folder examples/glyph_deep, which is not part of the wheel",
            where="--task",
            got=f"nothing at {EXAMPLES / 'glyph_deep'}",
            fix="run from a checkout of the repository, installed with pip install -e .",
        )
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    return import_module(f"glyph_deep.{name}")


def checkpoint() -> Path | None:
    """The example's model, or None where it has not been trained yet."""
    folder = EXAMPLES / "glyph_deep" / "checkpoint"
    return folder if (folder / "model.safetensors").is_file() else None


def task(name: str, ground: str) -> Task:
    """The task about one ground."""
    cases = module("data.cases")
    return Task(
        name=name,
        checkpoint=checkpoint(),
        image_size=cases.SIZES[ground],
        cases=cases.cases,
        search=(f"search-{ground}", 0),
        report=(ground, 0),
        longest=cases.LONGEST,
        stops=True,
    )


TASK = task("glyph-deep", "pages")
