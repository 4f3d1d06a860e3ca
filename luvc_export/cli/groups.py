"""Records of options that several verbs take: data and tasks, sizes of the image input, what a prune ranks by."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from luvc_export.cli import options
from luvc_export.core.image_tokens import shapes, size_of
from luvc_export.core.options import Asked, option, size
from luvc_export.core.plan import Plan
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
        """The set of ``--data``, which must be given."""
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

    device: str = _searching("cpu", "With --data: where torch asks the model.", choices=("cpu", "cuda"))

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
            common = choices | {"folder": self.save, "device": self.device, "progress": tell}
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


@dataclass(frozen=True)
class SizeOptions:
    """Sizes of the image input."""

    image_size: tuple[str, ...] = option(
        (), "Image input; repeat. Default: the family's or 672x672.", metavar="HxW", verbs=("export", "trial")
    )
    image_tokens: str | None = option(
        None,
        "Most visual tokens of a picture, in place of --image-size: a near-square size for each, 280@16:9 one for "
        "pictures of that shape; auto: the budgets that the model was trained with (Gemma 4: 70 to 1120), or 144, 576 "
        "and 1024.",
        metavar="N[@W:H][,N..]|auto",
    )

    def sizes(self, checkpoint: Checkpoint) -> list[tuple[int, int]]:
        """Heights and widths in pixels; none where nothing was said.

        Raises:
            UsageError: Both options are given, one cannot be read, two ceilings make one size, or the model takes one
                size alone.
        """
        if self.image_tokens is None:
            return [each for each in map(size, self.image_size) if each]
        if self.image_size:
            raise UsageError(
                "a ceiling of visual tokens makes the size", where="--image-tokens, --image-size", fix="give one"
            )
        family, config, where = checkpoint.family, checkpoint.config, "--image-tokens"
        wanted, fixed = shapes(self.image_tokens, family.image_budgets(config)), family.image_size(config)
        if fixed is not None:
            raise UsageError(
                f"{family.model_type} takes pictures of one size",
                where=where,
                got=self.image_tokens,
                expected=f"{fixed[0]}x{fixed[1]}, which its position embeddings are learned for",
                fix="leave it out; --tiles and --plan say how many tokens the LLM sees",
            )
        sizes = [size_of(tokens, family.unit_pixels(config), shape) for tokens, shape in wanted]
        if len(set(sizes)) != len(sizes):
            what, expected = "two ceilings make the same size", "ceilings further apart"
            raise UsageError(what, where=where, got=self.image_tokens, expected=expected)
        return sizes

    def words(self) -> tuple[str, ...]:
        """What says the same on the command line of another verb, for one size.

        Raises:
            UsageError: More than one size is asked for, or an option cannot be read.
        """
        stated = [("--image-size", text) for text in self.image_size]
        count = len([size(text) for _, text in stated])
        if self.image_tokens is not None:
            stated.append(("--image-tokens", self.image_tokens))
            count += len(shapes(self.image_tokens))
        if count > 1:
            got = " ".join(word for pair in stated for word in pair)
            raise UsageError("this is for one size", where="--image-size, --image-tokens", got=got, fix="give one")
        return tuple(word for pair in stated for word in pair)


def one_size(text: str | None, tokens: str | None, checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Height and width in pixels of ``--image-size`` or ``--image-tokens``; None where neither is given.

    Raises:
        UsageError: See ``SizeOptions.sizes``; or more than one ceiling is given.
    """
    sizes = SizeOptions(() if text is None else (text,), tokens).sizes(checkpoint)
    if len(sizes) > 1:
        raise UsageError("a plan is for one size", where="--image-tokens", got=tokens, expected="one ceiling")
    return sizes[0] if sizes else None


def _help_score(context: typer.Context, wanted: bool) -> None:
    """Print the settings of ``--score``, of every score where none is named, and end."""
    if not wanted:
        return
    from luvc_export.export.compression import scores

    named = context.params.get("score")
    for name in [named] if named else scores.names():
        print("\n".join(scores.help_lines(name)))
    raise typer.Exit


_shaping = partial(option, tags=("shapes",))


@dataclass(frozen=True)
class ScoreOptions:
    """What a prune ranks tokens by."""

    score: str | None = _shaping(
        None, "What a prune ranks tokens by, such as low or dart; default: the plan's.", eager=True
    )
    score_option: tuple[str, ...] = option(
        (), "A setting of the score; repeat.", metavar="NAME=VALUE", tags=("shapes", "by hand")
    )
    help_score: bool = option(False, "Show the settings of --score NAME and exit.", eager=True, callback=_help_score)
    rho: float | None = _shaping(None, "As --score-option rho=: share of the spectrum below the cutoff.")
    steps: int | None = _shaping(None, "As --score-option steps=: rounds in which scope and maxmin choose.")
    scorer: Path | None = option(None, "Learned scorer, .safetensors; the score is then learned.", metavar="FILE")

    def choices(self) -> dict[str, Any]:
        """What was said, by the names that ``make_plan`` takes; the score reads the texts of its settings.

        Raises:
            UsageError: An option is no NAME=VALUE, says a setting twice, or a learned scorer stands beside another
                score.
            PlanError: The file of ``--scorer`` is no scorer.
        """
        shorthands = {"rho": self.rho, "steps": self.steps, "score": self.score}
        settings: dict[str, Any] = {name: value for name, value in shorthands.items() if value is not None}
        for text in self.score_option:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier() or name == "score" or name in settings:
                raise UsageError(
                    "say each setting once" if name in settings else "this is no setting",
                    where="--score-option",
                    got=text,
                    expected="NAME=VALUE, such as rho=0.1",
                )
            settings[name] = value
        if self.scorer is not None:
            settings["score"], settings["scorer"] = learned(self.score, self.scorer)
        return settings

    def check_used(self, plans: Iterable[Plan]) -> None:
        """Refuse a scorer that no plan prunes by."""
        if self.scorer is None:
            return
        _, sha256 = learned(self.score, self.scorer)
        if not any(("scorer", sha256) in plan.llm.method.settings and plan.prunes_tokens for plan in plans):
            raise UsageError(
                "no plan uses this scorer",
                where="--scorer",
                got=f"sha256 {sha256[:16]}...",
                expected="a plan of the score 'learned' that names it",
                fix="leave it out",
            )


def learned(score: str | None, file: Path) -> tuple[str, str]:
    """The score that ``--scorer`` asks for, and the sha256 of its file, which is read and checked.

    Raises:
        UsageError: Another score is asked for.
        PlanError: The file is no scorer.
    """
    if score not in (None, "learned"):
        raise UsageError(
            "a scorer is for the score 'learned'", where="--scorer", got=f"--score {score}", fix="leave --score out"
        )
    from luvc_export.export.compression.scorer_file import open_scorer

    return "learned", open_scorer(file).sha256


def check_shaping(stated: Iterable[Asked], sources: Iterable[str | list[int] | Plan]) -> None:
    """Refuse options that none of the plans asked for would heed.

    Raises:
        UsageError: Every plan comes whole from a file, or compresses nothing.
    """
    schedules = [source for source in sources if not isinstance(source, Plan)]
    if any(source != "none" for source in schedules):
        return
    unheeded = [each for each in stated if "shapes" in each.option.tags]
    if schedules:  # a plan that compresses nothing has a last layer
        unheeded = [each for each in unheeded if each.name != "last_layer"]
    if unheeded:
        raise UsageError(
            "a plan that compresses nothing heeds no such option" if schedules else "a plan file says this itself",
            where="--plan",
            got=", ".join(each.flag for each in unheeded),
            fix="leave them out" if schedules else "luvc-export plan ... -o FILE makes another file",
        )
