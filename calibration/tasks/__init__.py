"""Tasks to measure on: one file each here, found by its name, or any module that has a ``TASK``."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from luvc_export.calibration.cases import Case
from luvc_export.errors import MachineError, UsageError, did_you_mean


@dataclass(frozen=True)
class Task:
    """Questions with answers, from a seed.

    Attributes:
        name: For reports.
        checkpoint: The model the task is meant for; None where any will do.
        image_size: Height and width of its pictures.
        cases: (split, count, seed) -> cases, all of a picture before the next, the same for the same arguments.
        search: Split and seed on which settings may be searched.
        report: Split and seed for what is reported; shares no picture with ``search``.
        longest: Tokens an answer may have, the end token included.
        stops: Whether the model was taught to end its answers, so that a right one must end.
        frames: Of each of its films; 0 where it asks about pictures.
    """

    name: str
    checkpoint: Path | None
    image_size: tuple[int, int]
    cases: Callable[[str, int, int], Iterator[Case]]
    search: tuple[str, int]
    report: tuple[str, int]
    longest: int = 16
    stops: bool = True
    frames: int = 0

    def of_pictures(self, where: str, instead: str) -> Task:
        """This task, which must ask about pictures.

        Raises:
            UsageError: It asks about films; ``instead`` says what to do.
        """
        if self.frames:
            asks = f"films of {self.frames} frames"
            raise UsageError(
                "this takes a task about pictures", where=f"{where} --task {self.name}", got=asks, fix=instead
            )
        return self


#: The folder of the examples in a checkout of the repository, whether its packages are linked or not.
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(package: str, module: str) -> Any:
    """A module of an example, whose model and cases are no part of a wheel.

    Raises:
        MachineError: The examples are not there, as in an installed wheel.
    """
    if not EXAMPLES.joinpath(package, *module.split(".")).with_suffix(".py").is_file():
        raise MachineError(
            f"the task {package.replace('_', '-')} needs the folder examples/{package}, which is not part of the wheel",
            where="--task",
            got=f"nothing at {EXAMPLES / package}",
            fix="run from a checkout of the repository, installed with pip install -e .",
        )
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    return import_module(f"{package}.{module}")


def checkpoint_of(package: str) -> Path | None:
    """An example's model, or None where it has not been trained yet."""
    folder = EXAMPLES / package / "checkpoint"
    return folder if (folder / "model.safetensors").is_file() else None


def names() -> list[str]:
    """Every task of this package."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(Path(__file__).parent)]))


def find(name: str, split: str | None = None) -> Task:
    """The task called ``name``: one of ``names()``, or the dotted name of a module with a ``TASK``.

    ``split`` is what it reports on in place of its own choice.

    Raises:
        UsageError: There is none, or the task has no such split.
    """
    where = f"{__name__}.{name.replace('-', '_')}" if name in names() else name
    try:
        task = getattr(import_module(where), "TASK", None)
    except ModuleNotFoundError as error:
        if error.name and not where.startswith(error.name):
            raise
        task = None
    if not isinstance(task, Task):
        raise UsageError(
            "there is no such task",
            where="--task",
            got=repr(name),
            expected=did_you_mean(name, names()),
            fix="or give the dotted name of a module whose TASK is a luvc_export.calibration.tasks.Task",
        )
    if split is not None:
        next(task.cases(split, 1, task.report[1]))
        task = replace(task, report=(split, task.report[1]))
    return task
