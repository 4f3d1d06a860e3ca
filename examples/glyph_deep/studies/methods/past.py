"""Past the paper on the three grounds: `python -m glyph_deep.studies.methods.past -o ../docs/results`.

Held-out questions only. The plan that `luvc-export plan --data` found on a ground's search split (`plans/GROUND.json`);
every method at the prefill FLOPs of `--speedup`, with and without the frozen layers of that plan, a learned scorer
among them (`--scorer`); smaller pictures at equal FLOPs and at equal time to first token; the package's default plan by
the width of its filter, on the bundled model too. A killed run goes on where it stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from glyph_deep.data.cases import SIZES, cases
from glyph_deep.data.splits import GROUNDS
from glyph_deep.studies.evaluate import lines_of
from glyph_deep.studies.measured import command, parser_of, read
from luvc_export.calibration import intervals, tasks
from luvc_export.calibration.ablation import past
from luvc_export.calibration.ablation import study as studies
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.plan import Plan
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.demo import CHECKPOINT as DEMO
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import open_scorer

from .compare import say
from .compare_page import interval, table

PLANS = Path(__file__).parents[2] / "plans"
RHOS = (0.1, 0.25, 0.5)
SCHEDULES = ("even", "thirds")
RECORDS = 1
FIGURES = "glyph-deep-past.json"


def study_of(ground: str, folder: Path, checkpoint: Path, count: int, side: int, scorer: str = "") -> studies.Study:
    """Return the study of a ground (or `bundled`, the bundled model's task) on its held-out split."""
    bundled = ground == "bundled"
    where = DEMO if bundled else checkpoint
    opened = open_checkpoint(str(where))
    task = tasks.find("glyph")
    asked = list(task.cases(task.report[0], count, task.report[1]) if bundled else cases(ground, count, 0))
    engine = PlanEvaluator(opened, load_model(opened), asked, True)
    unit = opened.family.unit_pixels(opened.config)
    height, width = task.image_size if bundled else SIZES[ground]
    shapes = Shapes(
        (height // unit, width // unit),
        opened.family.decoder_shape(opened.config),
        opened.family.encoder_shape(opened.config),
    )
    text = int(np.median([len(a.prompt) - len(a.pictures) for a in engine.asked(shapes.none())]))
    about = {"ground": ground, "weights": weights_hash(where), "records": RECORDS}
    store = Store(folder / f"glyph-deep-past-{ground}-measurements.json", about)
    some = PlanEvaluator(opened, engine.model, asked[: min(side, count)], True)
    engines = {"report": engine, "side": some, "search": some}  # times are taken on "search"
    return studies.Study(engines, shapes, store, text, lambda stage, done: say(f"{ground}: {stage}", done), scorer)


def measure(study: studies.Study, plan: Plan, speedup: float) -> dict[str, Any]:
    """Return every section of one ground."""
    shapes, text = study.shapes, study.text
    searched = Variant("searched", (plan,), "plan --data, search split")
    some = [searched, *past.methods(shapes, text, speedup, plan.llm.kv_only, study.scorer)]
    equal, down = past.compared(study, some, "side")
    return {
        "text": text,
        "plan": plan.to_json(),
        "searched": study.rows("searched", [Variant("uncompressed", (shapes.none(),)), searched]),
        "paired": paired(study, shapes.none(), plan),
        "equal": equal,
        "down": down,
        "defaults": defaults(study),
    }


def defaults(study: studies.Study, split: str = "side") -> dict[str, Any]:
    """Return the package's plan by schedule at every width of its filter, and what each gains on the narrowest."""
    shapes, figures = study.shapes, dict[str, Any]()
    for schedule in SCHEDULES:
        solved = scores.described(solve(PlanRequest(LlmRequest(schedule)), shapes.grid, shapes.llm, shapes.encoder))
        plans = [solved.changed(method=scores.method(solved.llm.method.name, rho=rho)) for rho in RHOS]
        some = [Variant(f"rho {rho:g}", (plan,)) for rho, plan in zip(RHOS, plans, strict=True)]
        rows = study.rows(f"plan {schedule}", some, split)
        figures[schedule] = {"rows": rows, "gains": [paired(study, plans[0], plan, split) for plan in plans[1:]]}
    return figures


def paired(study: studies.Study, none: Plan, searched: Plan, split: str = "report") -> intervals.Interval:
    """Return accuracy of a plan minus that of another, paired by question."""
    right = [np.asarray(study.right(split, plan), dtype=np.float64) for plan in (searched, none)]
    return intervals.difference(right[0], right[1], [case.picture for case in study.engines[split].cases])


def page(figures: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the document; every figure in it was measured by the runs that write it."""
    commands = dict.fromkeys(parts["command"] for parts in figures.values())
    lines = [
        "# Past the paper inside the LLM: measurements",
        "",
        f"Written in `examples` by {', '.join(f'`{command}`' for command in commands)}; a ground's last run counts. "
        "Do not edit: run it again.",
        "",
        f"Model of [examples/glyph_deep](../../examples/glyph_deep/MODEL_CARD.md), checkpoint sha256 "
        f"`{about['weights'][:16]}`. Held-out questions. Plans with their frozen layers and scores were chosen on the "
        "search split alone, by `luvc-export plan --data glyph-deep-textured --speedup 3` (pages: `--data glyph-deep`; "
        "plain takes the plan of textured). Intervals are 95 %, clustered by picture; retention is against the "
        "uncompressed model on the same questions. FLOPs are the LLM's prefill, lm_head left out. Times are processor "
        "milliseconds of one thread of the compressed torch model, in turns; a smaller picture's accuracy in that time "
        "is linear between measured sizes.",
        "",
    ]
    for ground, parts in figures.items():
        if "searched" not in parts:
            continue
        plan = Plan.from_json(parts["plan"])
        by = plan.llm.method
        none, own = parts["searched"]
        lines += [
            f"## {ground.capitalize()}",
            "",
            f"Searched: visual tokens {' '.join(map(str, plan.keep))} of {plan.units}, layers "
            f"{' '.join(map(str, plan.llm.kv_only)) or 'none'} frozen, by {by.name} (rho {by['rho']:g}). "
            f"**{own.flops_ratio:.2f}x fewer prefill FLOPs, retention {interval(own.retention)}** on {own.questions} "
            f"questions; accuracy {interval(own.accuracy)}, uncompressed {interval(none.accuracy)}, paired difference "
            f"{interval(parts['paired'])}. {parts['text']} text tokens.",
            "",
            f"At {about['speedup']:g}x fewer FLOPs, as many tokens in every layer as that leaves; "
            f"{parts['equal'][0].questions} of the questions:",
            "",
            *compared(parts),
            "",
        ]
    measured = [
        [
            ground,
            schedule,
            str(solved["rows"][0].questions),
            *(interval(row.retention) for row in solved["rows"]),
            *(interval(gain) for gain in solved["gains"]),
        ]
        for ground, parts in figures.items()
        for schedule, solved in parts["defaults"].items()
    ]
    return "\n".join(
        [
            *lines,
            "## The package's plans, by the width of their filter",
            "",
            "Merging to three quarters, score `residual` in 2-D; `even` is the default schedule. Retention, and what "
            "the wider filters gain in accuracy on the narrowest, paired by question. `bundled` is the bundled model "
            "on its own task.",
            "",
            table(
                [
                    "model and ground",
                    "schedule",
                    "questions",
                    *(f"rho {rho:g}" for rho in RHOS),
                    *(f"{rho:g} gains" for rho in RHOS[1:]),
                ],
                measured,
            ),
            "",
        ]
    )


def compared(parts: dict[str, Any]) -> list[str]:
    """Return the methods of one ground at equal FLOPs, and its smaller pictures."""
    down = parts["down"]
    head = ["method", "", "FLOPs fewer", "accuracy", "retention", "first token ms", "smaller picture in that time"]
    small = [["picture", "", "first token ms", "prefill ms", "accuracy"], [times(row) for row in down]]
    return [table(head, [cells(row, down) for row in parts["equal"]]), "", "Smaller pictures:", "", table(*small)]


def cells(row: studies.Row, down: list[studies.Row]) -> list[str]:
    """Return one method at equal FLOPs, and what a smaller picture reaches in its time, if that was taken."""
    named = [row.name, row.remark, f"{row.flops_ratio:.2f}x", interval(row.accuracy), interval(row.retention)]
    if not row.times.ttft:
        return [*named, "", ""]
    there = past.beside(row.times.ttft, down)
    return [*named, f"{row.times.ttft:.1f}", "outside" if there is None else f"{there:.3f}"]


def times(row: studies.Row) -> list[str]:
    """Return one method's times."""
    return [row.name, row.remark, f"{row.times.ttft:.1f}", f"{row.times.prefill:.1f}", interval(row.accuracy)]


def main() -> None:
    """Read the command line, measure, write the page and its data."""
    parser = parser_of(__doc__, 2000, "held-out questions a ground", (*GROUNDS, "bundled"))
    parser.add_argument("--side", type=int, default=420, help="those of them that other methods are compared on")
    parser.add_argument("--speedup", type=float, default=3.0, help="prefill FLOPs to compare methods at")
    parser.add_argument("--scorer", type=Path, help="learned scorer to compare too, .safetensors")
    args = read(parser)
    scorer = "" if args.scorer is None else open_scorer(args.scorer).sha256
    words = command("methods.past", parser, args)
    about = {"weights": weights_hash(args.checkpoint), "speedup": args.speedup}
    figures = measured(args.output / FIGURES, about)
    for ground in args.grounds:
        study = study_of(ground, args.output, args.checkpoint, args.count, args.side, scorer)
        if ground == "bundled":
            parts: dict[str, Any] = {"defaults": defaults(study, "report")}
        else:
            plan = Plan.from_json(json.loads((PLANS / f"{ground}.json").read_text(encoding="utf-8")))
            parts = measure(study, plan, args.speedup)
        figures[ground] = {"command": words, **parts}
        ordered = {name: figures[name] for name in (*GROUNDS, "bundled") if name in figures}
        file = args.output / FIGURES
        file.write_text(lines_of({"about": about, **studies.plain(ordered)}))
        file.with_suffix(".md").write_text(page(measured(file, about), about), encoding="utf-8")  # as rounded there


def measured(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return the grounds that earlier runs with the same model and speed-up measured."""
    if not file.is_file():
        return {}
    data = studies.from_plain(json.loads(file.read_text(encoding="utf-8")))
    if data.pop("about") != about:
        return {}
    for parts in data.values():
        if "paired" in parts:
            parts["paired"] = intervals.Interval(*parts["paired"])
        for solved in parts["defaults"].values():
            solved["gains"] = [intervals.Interval(*gain) for gain in solved["gains"]]
    return dict(data)


if __name__ == "__main__":
    main()
