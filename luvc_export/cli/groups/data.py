"""Options that say what is asked: questions of a task, a calibration set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.core.options import option
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.tasks import Task

_searching = partial(option, tags=("searches",))


@dataclass(frozen=True)
class TaskOptions:
    """A task that asks questions and knows their answers."""

    task: str | None = option(None, "glyph, or a module that has a TASK.")
    split: str | None = option(None, "Split of the task, such as harder; default: its own.")

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

    data: str | None = option(
        None,
        "Calibration set: a folder of pictures, a JSON Lines file, or a task.",
        metavar="SET",
        tags=("instead of time",),
    )
    count: int = _searching(2000, "Questions taken from --data at most.")
    prompt: str | None = _searching(None, "For pictures of a folder without a text file.")
    max_new_tokens: int | None = _searching(None, "Longest answer; default: the task's own, or 32 tokens.", least=1)

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


@dataclass(frozen=True)
class SearchOptions(DataOptions):
    """A search for the cheapest plan that keeps the answers to a calibration set."""

    retention: float = _searching(0.99, "Share of answers that must stay what they are uncompressed.")
    held_out: float = _searching(0.5, "Share of the pictures kept for the check.")
    no_freeze: bool = _searching(False, "With --data: freeze no layer (--kv-only).")
    save: Path | None = _searching(
        None, "Folder for report, plots and measurements; a search goes on there.", metavar="DIR"
    )
