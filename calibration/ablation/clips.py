"""The comparison for a task about films: which score and which quota keep a clip's answers at one budget.

Every plan of the search keeps the whole clip in the first layer and the tokens of the plan `film` from then on. First
every score with the quota of its source, then every quota for the best score, on the search split; what that chooses
is reported on the other split, beside the same scores and every named plan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luvc_export.calibration import intervals, runners
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, pack, plan_key, unpack, weights_hash
from luvc_export.calibration.cases import Case
from luvc_export.calibration.parity.plots import mean_tokens
from luvc_export.calibration.runners.canvas import canvas, uncompressed
from luvc_export.calibration.tasks import Task
from luvc_export.core.files import pages
from luvc_export.core.files.folders import make_folder
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.named_plans import NAMED
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.plan.cost import cost
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.plan.sharing import Quota
from luvc_export.core.planning import solve
from luvc_export.core.progress import Progress
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
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
class Variant:
    """One row: its name for people, its plan, and whether it has the budgets of the search."""

    name: str
    plan: Plan
    equal: bool = True


class Clips:
    """Plans for whole clips of one checkpoint, and what it answers under them.

    Raises:
        UsageError: The checkpoint's family takes no video, or the frames make no whole clip.
    """

    def __init__(self, checkpoint: Checkpoint, task: Task, store: Store, asked: dict[str, Sequence[Case]]) -> None:
        family, config = checkpoint.family, checkpoint.config
        video = family.video(config)
        if video is None:
            raise UsageError("this model takes no video", where=str(checkpoint.folder), fix="--task glyph")
        self.store, self.moments = store, -(-task.frames // video.frames)
        self.size, self.llm, self.encoder = task.image_size, family.decoder_shape(config), family.encoder_shape(config)
        self.none = uncompressed(checkpoint, self.size, Sharing(self.moments))
        model, image = runners.load_model(checkpoint), canvas(checkpoint, self.size, video=True)
        self.engines = {
            split: PlanEvaluator(checkpoint, model, cases, task.stops, image=image) for split, cases in asked.items()
        }

    def named(self, name: str) -> Plan:
        """The plan of that name for a clip."""
        request = PlanRequest(LlmRequest(name), sharing=Sharing(self.moments))
        return scores.described(solve(request, self.none.grid, self.llm, self.encoder))

    def variant(self, score: str, quota: Quota = "none") -> Variant:
        """A score and a quota at the budgets of the search."""
        plan = self.named(BUDGETS).changed(method=scores.method(score))
        name = score if quota == SCORES[score] else f"{score}, quota {quota}"
        return Variant(name, replace(plan, sharing=Sharing(self.moments, None, quota)))

    def right(self, split: str, plan: Plan) -> list[bool]:
        """Whether each case of a split is answered right."""
        engine = self.engines[split]
        key = [split, len(engine.cases), plan_key(plan)]
        return unpack(self.store.of(key, lambda: pack(engine.right(plan))), len(engine.cases))

    def rows(self, split: str, some: Sequence[Variant], text: int, progress: Progress) -> list[dict[str, Any]]:
        """Accuracy and retention with intervals clustered by film, and accuracy by type of question."""
        cases = self.engines[split].cases
        films, kinds = [case.picture for case in cases], np.array([case.kind for case in cases])
        full, whole = self.right(split, self.none), cost(self.none, self.llm, text).flops
        baseline, rows = self.right(split, self.variant(BASELINE).plan), []
        for number, variant in enumerate(some):
            progress(f"films, {split}", number / len(some))
            right, flops = np.array(self.right(split, variant.plan)), cost(variant.plan, self.llm, text).flops
            gap = {"against": intervals.difference(right, baseline, films)} if variant.equal else {}
            rows.append(
                {
                    "plan": variant.name,
                    "tokens": round(mean_tokens(variant.plan), 2),
                    "flops": round(whole / flops, 3),
                    "questions": len(right),
                    "accuracy": intervals.accuracy(right, films),
                    "retention": intervals.retention(right, full, films),
                    **gap,
                    "kinds": {kind: round(float(right[kinds == kind].mean()), 4) for kind in sorted({*kinds.tolist()})},
                }
            )
        progress(f"films, {split}", 1.0)
        return rows


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
    where = model or (str(task.checkpoint) if task.checkpoint else None)
    if where is None:
        raise UsageError("the task has no model of its own", where=task.name, fix="--model CHECKPOINT")
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(where)
    about = {
        "task": task.name,
        "weights": weights_hash(checkpoint.folder),
        "report": f"{task.report[0]}, seed {task.report[1]}",
        "search": f"{task.search[0]}, seed {task.search[1]}",
        "records": RECORDS,
    }
    asked: dict[str, Sequence[Case]] = {
        "report": list(task.cases(task.report[0], count, task.report[1])),
        "search": list(task.cases(task.search[0], search, task.search[1])),
    }
    clips = Clips(checkpoint, task, Store(output / MEASUREMENTS, about), asked)
    if text is None:
        prompts = clips.engines["report"].asked(clips.none)
        text = int(np.median([len(one.prompt) - len(one.pictures) for one in prompts]))
    variants = [clips.variant(score, quota) for score, quota in SCORES.items()]
    searched = clips.rows("search", variants, text, progress)
    score = variants[best(searched)].name
    divided = [clips.variant(score, quota) for quota in QUOTAS if quota != SCORES[score]]
    quotas = clips.rows("search", divided, text, progress)
    chosen = [*variants, *divided][best([*searched, *quotas])]
    reported = [Variant("uncompressed", clips.none, equal=False), replace(chosen, name=f"searched: {chosen.name}")]
    reported += variants + [Variant(f"`{name}`", clips.named(name), equal=False) for name in NAMED]
    data: dict[str, Any] = {
        "about": {"command": command, **about, "search_count": search, "text": text, "frames": task.frames},
        "chosen": chosen.name,
        "search": [*searched, *quotas],
        "report": clips.rows("report", reported, text, progress),
    }
    make_folder(output)
    lines = [f"{json.dumps(name)}: {_lines(part)}" for name, part in data.items()]
    write_whole(output / FIGURES, "{\n" + ",\n".join(lines) + "\n}\n")
    write_whole(output / PAGE, page(data))
    return data


def best(rows: Sequence[dict[str, Any]]) -> int:
    """Which row answers most; the first of equals."""
    return max(range(len(rows)), key=lambda number: rows[number]["accuracy"][0])


def _lines(part: Any) -> str:
    if not isinstance(part, list):
        return json.dumps(part)
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in part) + "\n]"


def page(data: dict[str, Any]) -> str:
    """The figures as a document."""
    about, whole = data["about"], data["report"][0]
    lines = [
        "# What to keep of a clip: measurements",
        "",
        f"Written by `{about['command']}`. Do not edit: run it again.",
        "",
        f"Task `{about['task']}`, films of {about['frames']} frames, checkpoint sha256 `{about['weights'][:16]}`,"
        f" {whole['questions']} questions on the reported split ({about['report']}), {about['search_count']} on the"
        f" split where the choice was searched ({about['search']}). Intervals are 95 %, clustered by film; retention is"
        f" against every token in every layer. Tokens are a layer's mean; FLOPs are the LLM's prefill at"
        f" {about['text']} text tokens, smaller ones first. Against `{BASELINE}`: share of right answers more, at the"
        " same budgets, question by question.",
        "",
        "## Reported",
        "",
        _table(data["report"]),
        "## Searched",
        "",
        f"Scores at the budgets of `{BUDGETS}`, then quotas for the best of them. Chosen: {data['chosen']}.",
        "",
        _table(data["search"]),
    ]
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    kinds, lines = list(rows[0]["kinds"]), []
    for row in rows:
        accuracy, retention = ("{:.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in ("accuracy", "retention"))
        gap = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["against"]) if "against" in row else ""
        parts = (f"{row['kinds'][kind]:.3f}" for kind in kinds)
        lines.append((row["plan"], f"{row['tokens']:g}", f"{row['flops']:.2f}x", accuracy, retention, gap, *parts))
    head = ("plan", "tokens", "FLOPs", "accuracy", "retention", f"against {BASELINE}", *kinds)
    return pages.table(head, lines, left=1)
