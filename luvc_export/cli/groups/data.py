"""Options that say what is asked: questions of a task, a calibration set."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.cli import options
from luvc_export.core.options import option
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.calibration.budgets.depth import DepthProfile
    from luvc_export.calibration.budgets.run import SearchResult
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.tasks import Task
    from luvc_export.export.checkpoint import Checkpoint

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
    """A search for the cheapest plan that keeps the answers to a calibration set, or a profile by depth."""

    retention: float | None = _searching(
        None,
        "Share of answers that must stay what they are uncompressed; default: 0.99, with --plan striped 0.95.",
    )
    held_out: float = _searching(0.5, "Share of the pictures kept for the check.")
    no_freeze: bool = _searching(False, "With --data: freeze no layer (--kv-only).")
    save: Path | None = _searching(
        None, "Folder for report, plots and measurements; a search or profile goes on there.", metavar="DIR"
    )
    minutes: float | None = _searching(
        None, "With --data, --save and --plan striped: end inside so many minutes; the same line goes on."
    )

    def result(
        self,
        checkpoint: Checkpoint,
        size: tuple[int, int] | None,
        choices: dict[str, Any],
        searched: dict[str, Any] | None,
        command: str,
        quiet: bool,
    ) -> SearchResult | DepthProfile:
        """Read the data, search or measure by depth, and write the report into the folder of ``--save``.

        Args:
            checkpoint: With weights.
            size: Height and width of pictures; None for the task's or the family's.
            choices: What both take by name.
            searched: What a search alone takes; None measures by depth.
            command: What to write of how it was made.
            quiet: Draw no progress.

        Raises:
            LuvcError: See ``calibration.budgets.run.budgets`` and ``calibration.budgets.depth.profile``.
        """
        from luvc_export.calibration import tasks
        from luvc_export.calibration.budgets import depth, report
        from luvc_export.calibration.budgets.run import budgets
        from luvc_export.calibration.parity.plots import canvas
        from luvc_export.pipeline.plans import default_image_size

        if self.save is not None:
            canvas()  # a missing matplotlib is told before the search, not after it
        if size is None:
            known = self.data in tasks.names()
            size = tasks.find(str(self.data)).image_size if known else default_image_size(checkpoint)
        if self.retention is not None:
            choices = choices | {"retention": self.retention}
        result: SearchResult | DepthProfile
        own: dict[str, Any]
        with options.progress(quiet) as tell:
            questions = self.load(tell)
            common = choices | {"folder": self.save, "progress": tell}
            if searched is None:
                own = {"minutes": self.minutes, "foretell": _foretell}
                result = depth.profile(checkpoint, questions, size, **own, **common)
            else:
                own = {"held_out": self.held_out, "freeze": not self.no_freeze}
                result = budgets(checkpoint, questions, size, **own, **searched, **common)
        if self.save is not None:
            report.write(result, self.save, command)
        return result


def _foretell(seconds: float) -> None:
    print(f"at most about {seconds:.0f} s; --save DIR keeps what is measured, also at Ctrl-C", file=sys.stderr)
