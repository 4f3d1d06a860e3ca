"""Options that shape a plan, one group for each part of it: ``plan`` and ``export`` take them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.core.plan import Plan
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, TimeRequest
from luvc_export.errors import UsageError


@dataclass(frozen=True)
class EncoderOptions:
    """What merges or leaves in the vision encoder."""

    merge_keep: Annotated[
        float | None,
        typer.Option(
            "--merge-keep",
            help="Share of units that merging keeps, such as 0.75; default: all, but for schedules and luvc; --data "
            "tries 1, 0.75 and 0.5.",
        ),
    ] = None
    merge_schedule: options.MergeSchedule = "late"
    merge_frames: Annotated[
        str | None,
        typer.Option(
            "--merge-frames",
            metavar="SHARE[@BLOCK]",
            help="Of a clip (--joint-frames), the share of frames that encoder blocks after a third of them compute.",
        ),
    ] = None
    encoder_keep: options.EncoderKeep = None
    encoder_restore: options.EncoderRestore = "all"

    def request(self) -> EncoderRequest:
        """The part.

        Raises:
            UsageError: See ``options.encoder_prune``.
        """
        leaving = options.encoder_prune(self.encoder_keep, self.encoder_restore)
        time = (
            None if self.merge_frames is None else TimeRequest(*options.share_at(self.merge_frames, "--merge-frames"))
        )
        return EncoderRequest(self.merge_keep, merge_schedule=self.merge_schedule, prune=leaving, time=time)


@dataclass(frozen=True)
class BudgetOptions:
    """How many visual tokens the LLM's layers keep."""

    speedup: options.Speedup = None
    kv_mib: options.KvMib = None
    last_layer: options.LastLayer = None
    kv_only: options.KvOnly = None

    def request(self, text: int = 64) -> LlmRequest:
        """The part, but for its schedule and its method; goals count ``text`` text tokens.

        Raises:
            UsageError: See ``options.layers``.
        """
        return LlmRequest(
            speedup=self.speedup,
            kv_mib=self.kv_mib,
            text=text,
            last_layer=self.last_layer,  # type: ignore[arg-type]
            kv_only=options.layers(self.kv_only),
        )


def _help_score(context: typer.Context, wanted: bool) -> None:
    """Print the settings of ``--score``, of every score where none is named, and end."""
    if not wanted:
        return
    from luvc_export.export.compression import scores

    named = context.params.get("score")
    for name in [named] if named else scores.names():
        print("\n".join(scores.help_lines(name)))
    raise typer.Exit


@dataclass(frozen=True)
class ScoreOptions:
    """What a prune ranks tokens by."""

    score: Annotated[
        str | None,
        typer.Option(
            "--score", is_eager=True, help="What a prune ranks tokens by, such as low or dart; default: the plan's."
        ),
    ] = None
    score_option: Annotated[
        list[str] | None,
        typer.Option("--score-option", metavar="NAME=VALUE", help="A setting of the score; repeat."),
    ] = None
    help_score: Annotated[
        bool,
        typer.Option(
            "--help-score", is_eager=True, callback=_help_score, help="Show the settings of --score NAME and exit."
        ),
    ] = False
    rho: Annotated[
        float | None, typer.Option("--rho", help="As --score-option rho=: share of the spectrum below the cutoff.")
    ] = None
    steps: Annotated[
        int | None, typer.Option("--steps", help="As --score-option steps=: rounds in which scope and maxmin choose.")
    ] = None
    scorer: options.Scorer = None
    axis: options.Axis = None
    spectrum: options.Spectrum = None

    def choices(self) -> dict[str, Any]:
        """What was said, by the names that ``make_plan`` takes; the score reads the texts of its settings.

        Raises:
            UsageError: An option is no NAME=VALUE, says a setting twice, or a learned scorer stands beside another
                score.
            PlanError: The file of ``--scorer`` is no scorer.
        """
        shorthands = {"rho": self.rho, "steps": self.steps, "score": self.score}
        settings: dict[str, Any] = {name: value for name, value in shorthands.items() if value is not None}
        for text in self.score_option or ():
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
            settings["score"], settings["scorer"] = options.learned(self.score, self.scorer)
        return settings

    def filtered(self, llm: LlmRequest) -> LlmRequest:
        """``llm`` with the filter that was asked for."""
        return replace(llm, axis=self.axis, spectrum=self.spectrum)  # type: ignore[arg-type]

    def check_used(self, plans: Iterable[Plan]) -> None:
        """Refuse a scorer that no plan prunes by.

        Raises:
            UsageError: As said.
        """
        if self.scorer is None:
            return
        _, sha256 = options.learned(self.score, self.scorer)
        if not any(("scorer", sha256) in plan.llm.method.settings and plan.prunes_tokens for plan in plans):
            raise UsageError(
                "no plan uses this scorer",
                where="--scorer",
                got=f"sha256 {sha256[:16]}...",
                expected="a plan of the score 'learned' that names it",
                fix="leave it out",
            )


@dataclass(frozen=True)
class SharingOptions:
    """Budgets that several images share."""

    joint_frames: Annotated[
        int | None,
        typer.Option(
            "--joint-frames",
            metavar="N",
            help="Budgets that N frames of a video share; implies --video. export: beside the plans for pictures.",
        ),
    ] = None
    joint_tiles: options.JointTiles = None
    quota: options.Quota = "none"

    def check_frames(self, merge_frames: str | None) -> None:
        """Refuse frames that merge where no clip has any.

        Raises:
            UsageError: As said.
        """
        if merge_frames is not None and self.joint_frames is None:
            raise UsageError("frames of a clip merge", where="--merge-frames", fix="pass --joint-frames N")

    @property
    def tiles(self) -> tuple[int, int] | None:
        """Rows and columns of ``--joint-tiles``.

        Raises:
            UsageError: See ``options.joint_tiles``.
        """
        return options.joint_tiles(self.joint_tiles)


#: What shapes a plan that is made here: fields of the groups above, but for media.
SHAPING = (
    "merge_keep",
    "merge_schedule",
    "merge_frames",
    "encoder_keep",
    "encoder_restore",
    "score",
    "score_option",
    "rho",
    "axis",
    "spectrum",
    "last_layer",
    "kv_only",
    "steps",
    "quota",
)


def check_shaping(stated: list[str], sources: Iterable[str | list[int] | Plan]) -> None:
    """Refuse options that none of the plans asked for would heed.

    Args:
        stated: See ``options.given``.
        sources: What ``options.plan_source`` gives.

    Raises:
        UsageError: Every plan comes whole from a file, or compresses nothing.
    """
    schedules = [source for source in sources if not isinstance(source, Plan)]
    shaped = any(source != "none" for source in schedules)
    own = ("last_layer",) if schedules else ()
    unheeded = [name for name in stated if name in SHAPING and not shaped and name not in own]
    if unheeded:
        raise UsageError(
            "a plan that compresses nothing heeds no such option" if schedules else "a plan file says this itself",
            where="--plan",
            got=", ".join(map(options.flag, unheeded)),
            fix="leave them out" if schedules else "luvc-export plan ... -o FILE makes another file",
        )


def check_media(joint_frames: int | None, joint_tiles: tuple[int, int] | None) -> None:
    """Refuse one plan that is for frames and for tiles.

    Raises:
        UsageError: Both are given.
    """
    if joint_frames is not None and joint_tiles is not None:
        raise UsageError("a plan is for frames or for tiles", where="--joint-frames, --joint-tiles", fix="give one")
