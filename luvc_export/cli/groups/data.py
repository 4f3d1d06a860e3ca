"""Options that say what is asked: pictures of a size, questions of a task, a calibration set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.tasks import Task


@dataclass(frozen=True)
class MediaOptions:
    """What images are made of: tiles of a picture, frames of a video."""

    tiles: options.Tiles = None
    video: Annotated[bool, typer.Option("--video", help="Images have the frames of a video (Qwen-VL families).")] = (
        False
    )

    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of every ``--tiles``; (1, 1) where there is none.

        Raises:
            UsageError: See ``options.grids``.
        """
        return options.grids(self.tiles)


@dataclass(frozen=True)
class TaskOptions:
    """A task that asks questions and knows their answers."""

    task: Annotated[str | None, typer.Option("--task", help="glyph, or a module that has a TASK.")] = None
    split: options.Split = None

    def found(self) -> Task | None:
        """The task, of that split; None where none is named.

        Raises:
            UsageError: There is no such task or split, or a split of no task.
        """
        from luvc_export.calibration import tasks

        if self.split is not None and self.task is None:
            raise UsageError(
                "only a task has splits", where="--split", got=self.split, fix="--task NAME, or leave it out"
            )
        return tasks.find(self.task, self.split) if self.task else None


@dataclass(frozen=True)
class DataOptions:
    """A calibration set, and how much of it is asked."""

    data: options.Data = None
    count: Annotated[int, typer.Option("--count", help="Questions taken from --data at most.")] = 2000
    prompt: Annotated[str | None, typer.Option("--prompt", help="For pictures of a folder without a text file.")] = None
    max_new_tokens: options.Longest = None

    def load(self, progress: Any) -> CalibrationSet:
        """The set of ``--data``, which must be given.

        Raises:
            UsageError: See ``calibration.datasets.load``.
        """
        from luvc_export.calibration import datasets

        assert self.data is not None
        return datasets.load(
            self.data, count=self.count, prompt=self.prompt, longest=self.max_new_tokens, progress=progress
        )
