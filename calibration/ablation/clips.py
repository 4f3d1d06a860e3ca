"""The comparison for a task about films: which score and which quota keep a clip's answers at one budget.

Every plan of the search keeps the whole clip in the first layer and the tokens of the plan `film` from then on. First
every score with the quota of its source, then every quota for the best score, on the search split; what that chooses
is reported on the other split, beside the same scores and every named plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.run import about_of, evaluators, open_model, write_figures
from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.ablation.study import Study
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.canvas import canvas, uncompressed
from luvc_export.calibration.tasks import Task
from luvc_export.core.files import pages
from luvc_export.core.named_plans import NAMED
from luvc_export.core.plan import Plan, Quota, Sharing
from luvc_export.core.planning import LlmRequest, PlanRequest
from luvc_export.errors import Progress, UsageError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression import scores

FIGURES, PAGE, MEASUREMENTS = "ablation-clips.json", "ablation-clips.md", "ablation-clips-measurements.json"
#: Whose budgets the search has.
BUDGETS = "film"
#: Scores that need neither training nor the question, each with the quota that its source has; `random` is one draw.
SCORES: dict[str, Quota] = {
    **dict.fromkeys(("stride", "random", "evs", "holitom", "residual", "scope", "maxmin"), "none"),
    "dycoke": "dycoke",
    "vidcom2": "vidcom2",
}
QUOTAS: tuple[Quota, ...] = ("uniform", "spread", "v-cast", "dycoke", "vidcom2")
#: What every plan with the budgets of the search is held against, question by question.
BASELINE = "evs"
#: Changes when a record's meaning does, so that old measurements are not mixed in.
RECORDS = 1


@dataclass(frozen=True)
class ClipVariant(Variant):
    """One row; ``equal``: whether its plan has the budgets of the search."""

    equal: bool = True


@dataclass(frozen=True)
class ClipShapes(Shapes):
    """What plans for clips of ``moments`` images are made for; ``whole`` is the uncompressed one."""

    whole: Plan
    moments: int

    def none(self) -> Plan:
        """The uncompressed plan."""
        return self.whole

    def named(self, name: str) -> Plan:
        """The plan of that name for a clip."""
        request = PlanRequest(LlmRequest(name), sharing=Sharing(self.moments))
        return self.solved(request)

    def variant(self, score: str, quota: Quota = "none") -> ClipVariant:
        """A score and a quota at the budgets of the search."""
        plan = self.named(BUDGETS).changed(method=scores.method(score))
        name = score if quota == SCORES[score] else f"{score}, quota {quota}"
        return ClipVariant(name, (replace(plan, sharing=Sharing(self.moments, None, quota)),))


def shapes_of(checkpoint: Checkpoint, task: Task) -> ClipShapes:
    """What plans for whole films of a task are made for.

    Raises:
        UsageError: The checkpoint's family takes no video, or the frames make no whole clip.
    """
    family, config = checkpoint.family, checkpoint.config
    video = family.video(config)
    if video is None:
        raise UsageError("this model takes no video", where=str(checkpoint.folder), fix="--task glyph")
    moments = -(-task.frames // video.frames)
    none = uncompressed(checkpoint, task.image_size, Sharing(moments))
    return ClipShapes(none.grid, family.decoder_shape(config), family.encoder_shape(config), none, moments)


def rows(study: Study, split: str, some: Sequence[ClipVariant]) -> list[dict[str, Any]]:
    """Accuracy and retention with intervals clustered by film, and accuracy by type of question."""
    assert isinstance(study.shapes, ClipShapes)
    films = [case.picture for case in study.engines[split].cases]
    baseline, measured = study.right(split, study.shapes.variant(BASELINE).plans[0]), []
    for variant, row in zip(some, study.rows(f"films, {split}", some, split), strict=True):
        right = study.right(split, variant.plans[0])
        gap = {"against": intervals.difference(right, baseline, films)} if variant.equal else {}
        measured.append(
            {
                "plan": row.name,
                "tokens": round(row.tokens, 2),
                "flops": round(row.flops_ratio, 3),
                "questions": row.questions,
                "accuracy": row.accuracy,
                "retention": row.retention,
                **gap,
                "kinds": {kind: round(row.kinds[kind], 4) for kind in sorted(row.kinds)},
            }
        )
    return measured


def ablate(
    task: Task,
    output: Path,
    command: str,
    model: str | None = None,
    count: int = 2000,
    search: int = 420,
    text: int | None = None,
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> dict[str, Any]:
    """Search, report; write ``ablation-clips.md``, ``ablation-clips.json`` and measurements into ``output``.

    Arguments are those of ``run.ablate``.

    Raises:
        UsageError: Neither ``model`` nor the task names a checkpoint, or its family takes no video.
    """
    checkpoint = open_model(task, model, threads)
    shapes, about = shapes_of(checkpoint, task), about_of(task, checkpoint, RECORDS)
    asked = {
        name: task.cases(split, number, seed)
        for name, number, (split, seed) in (("report", count, task.report), ("search", search, task.search))
    }
    engines = evaluators(checkpoint, task, asked, canvas(checkpoint, task.image_size, video=True))
    text = engines["report"].median_text(shapes.none()) if text is None else text
    study = Study(engines, shapes, Store(output / MEASUREMENTS, about), text, progress)
    compared = [shapes.variant(score, quota) for score, quota in SCORES.items()]
    searched = rows(study, "search", compared)
    score = compared[best(searched)].name
    divided = [shapes.variant(score, quota) for quota in QUOTAS if quota != SCORES[score]]
    searched += rows(study, "search", divided)
    chosen = [*compared, *divided][best(searched)]
    reported = [ClipVariant("uncompressed", (shapes.none(),), equal=False)]
    reported += [replace(chosen, name=f"searched: {chosen.name}"), *compared]
    reported += [ClipVariant(f"`{name}`", (shapes.named(name),), equal=False) for name in NAMED]
    data: dict[str, Any] = {
        "about": {"command": command, **about, "search_count": search, "text": text, "frames": task.frames},
        "chosen": chosen.name,
        "search": searched,
        "report": rows(study, "report", reported),
    }
    write_figures(output, FIGURES, data, {PAGE: page(data)})
    return data


def best(rows: Sequence[dict[str, Any]]) -> int:
    """Which row answers most; the first of equals."""
    return max(range(len(rows)), key=lambda number: rows[number]["accuracy"][0])


def page(data: dict[str, Any]) -> str:
    """The figures as a document: ``clips.template`` filled in."""
    return pages.filled(
        Path(__file__).with_suffix(".template"),
        about=data["about"],
        questions=data["report"][0]["questions"],
        baseline=BASELINE,
        reported=_table(data["report"]),
        budgets=BUDGETS,
        chosen=data["chosen"],
        searched=_table(data["search"]),
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    kinds, lines = list(rows[0]["kinds"]), []
    for row in rows:
        accuracy, retention = (intervals.Interval(*row[name]).text(3) for name in ("accuracy", "retention"))
        gap = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["against"]) if "against" in row else ""
        parts = (f"{row['kinds'][kind]:.3f}" for kind in kinds)
        lines.append((row["plan"], f"{row['tokens']:g}", f"{row['flops']:.2f}x", accuracy, retention, gap, *parts))
    head = ("plan", "tokens", "FLOPs", "accuracy", "retention", f"against {BASELINE}", *kinds)
    return pages.table(head, lines, left=1)
