"""Past the paper on the three grounds: `python -m glyph_deep.past -o ../docs/results`.

Held-out questions only. The plan that `luvc-export plan --data` found on a ground's search split (`plans/GROUND.json`);
every method at the prefill FLOPs of `--speedup`, with and without the frozen layers of that plan; smaller pictures at
equal FLOPs and at equal time to first token; the package's default plan by the width of its filter, on the bundled
model too. A killed run goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.calibration import intervals, tasks
from luvc_export.calibration.ablation import study as studies
from luvc_export.calibration.ablation import variants
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.cost_report import cost
from luvc_export.core.plan import Plan
from luvc_export.core.planning import PlanRequest, solve
from luvc_export.demo import CHECKPOINT as DEMO
from luvc_export.export.checkpoint import open_checkpoint

from .cases import SIZES, cases
from .compare import say
from .compare_page import interval, table
from .measured import parser_of, read, write
from .splits import GROUNDS

PLANS = Path(__file__).parent / "plans"
SETTINGS: dict[str, dict[str, Any]] = {
    "residual, rho 0.5": {"score": "residual", "rho": 0.5},
    "residual, rho 0.1": {"score": "residual", "rho": 0.1},
    "scope": {"score": "scope", "rho": 0.5},
    "maxmin": {"score": "maxmin"},
    "dart": {"score": "dart"},
    "keynorm": {"score": "keynorm"},
    "stride": {"score": "stride"},
}
RHOS = (0.1, 0.25, 0.5)
SIZES_DOWN = (0.7, 0.5, 0.35, 0.2)
RECORDS = 1


def study_of(ground: str, folder: Path, checkpoint: Path, count: int, side: int) -> studies.Study:
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
    side = PlanEvaluator(opened, engine.model, asked[: min(side, count)], True)
    engines = {"report": engine, "side": side, "search": side}  # times are taken on "search"
    return studies.Study(engines, shapes, store, text, lambda stage, done: say(f"{ground}: {stage}", done))


def at_speedup(shapes: Shapes, text: int, speedup: float, kv_only: tuple[int, ...], **switches: Any) -> Plan:
    """Return the even plan with most tokens whose prefill takes `speedup` times fewer FLOPs."""
    whole = cost(shapes.none(), shapes.llm, text).flops
    for keep in range(shapes.units, 0, -1):
        plan = Plan(shapes.grid, (keep,) * shapes.llm.layers, last_layer="kv_only", kv_only=kv_only, **switches)
        if whole / cost(plan, shapes.llm, text).flops >= speedup:
            return replace(plan, schedule="even")
    raise SystemExit(f"{speedup:g}x fewer FLOPs cannot be reached with one token left")


def measure(study: studies.Study, found: Plan, speedup: float) -> dict[str, Any]:
    """Return every section of one ground."""
    shapes, text = study.shapes, study.text
    none = Variant("uncompressed", (shapes.none(),))
    searched = Variant("searched", (found,), "plan --data, search split")
    same = []
    for label, still in (("frozen", found.kv_only), ("not frozen", ())):
        for name, switches in SETTINGS.items():
            plan = at_speedup(shapes, text, speedup, still, **switches)
            same.append(Variant(f"{name}, {label}", (plan,), f"{plan.keep[0]} tokens"))
        plan = at_speedup(shapes, text, speedup, still)
        seeds = tuple(replace(plan, score="random", seed=seed) for seed in variants.SEEDS)
        same.append(Variant(f"random, {label}", seeds, f"{plan.keep[0]} tokens, mean of 3 seeds"))
    whole = cost(shapes.none(), shapes.llm, text).flops
    sizes = [variants.smaller(shapes, tokens) for tokens in range(shapes.units, 0, -1)]
    small = next(p for p in sizes if whole / cost(p, shapes.llm, text).flops >= speedup)
    same.append(Variant("downsampling", (small,), f"{small.grid[0]}x{small.grid[1]} units"))
    down = list(dict.fromkeys(variants.smaller(shapes, share * shapes.units) for share in SIZES_DOWN))
    timed = [none, searched, Variant("not frozen", (at_speedup(shapes, text, speedup, (), score="residual", rho=0.5),))]
    timed += [Variant("downsampling", (p,), f"{p.grid[0]}x{p.grid[1]} units") for p in down]
    rows = study.rows("searched", [none, searched])
    return {
        "text": text,
        "plan": found.to_json(),
        "searched": rows,
        "paired": paired(study, shapes.none(), found),
        "equal": study.rows("equal FLOPs", same, "side"),
        "time": study.timed(study.rows("first token", timed, "side"), timed),
        "defaults": defaults(study),
    }


def defaults(study: studies.Study) -> list[studies.Row]:
    """Return the package's default plan at every width of its filter."""
    shapes = study.shapes
    made = solve(PlanRequest(), shapes.grid, shapes.llm, shapes.encoder)
    some = [Variant(f"rho {rho:g}", (replace(made, rho=rho),)) for rho in RHOS]
    return study.rows("default plan", some, "side")


def paired(study: studies.Study, none: Plan, found: Plan) -> intervals.Interval:
    """Return accuracy of the searched plan minus uncompressed, paired by question."""
    right = [np.asarray(study._right("report", plan), dtype=np.float64) for plan in (found, none)]
    return intervals.difference(right[0], right[1], [case.picture for case in study.engines["report"].cases])


def page(found: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the document; every figure in it was measured by the run that writes it."""
    lines = [
        "# Past the paper inside the LLM: measurements",
        "",
        f"Written by `{about['command']}` in `examples`. Do not edit: run it again.",
        "",
        f"Model of [examples/glyph_deep](../../examples/glyph_deep/MODEL_CARD.md), checkpoint sha256 "
        f"`{about['weights'][:16]}`. {about['count']} held-out questions a ground ({about['side']} of them for methods "
        "compared, times and the default plan). Plans with their frozen layers and scores were chosen on the search "
        "split alone, by `luvc-export plan --data glyph-deep-textured --speedup 3`; digits on plain grounds take the "
        "plan of the textured ones. Intervals are "
        "95 %, clustered by picture; retention is against the uncompressed model on the same questions. FLOPs are the "
        "LLM's prefill, lm_head left out.",
        "",
    ]
    for ground, parts in found.items():
        if "searched" not in parts:
            continue
        plan = Plan.from_json(parts["plan"])
        none, own = parts["searched"]
        lines += [
            f"## {ground.capitalize()}",
            "",
            f"Searched: visual tokens {' '.join(map(str, plan.keep))} of {plan.units}, layers "
            f"{' '.join(map(str, plan.kv_only)) or 'none'} frozen, by {plan.score} (rho {plan.rho:g}). "
            f"**{own.flops_ratio:.2f}x fewer prefill FLOPs, retention {interval(own.retention)}**; accuracy "
            f"{interval(own.accuracy)}, uncompressed {interval(none.accuracy)}, paired difference "
            f"{interval(parts['paired'])}. {parts['text']} text tokens.",
            "",
            f"At {about['speedup']:g}x fewer FLOPs, as many tokens in every layer as that leaves:",
            "",
            table(["method", "", "FLOPs fewer", "accuracy", "retention"], [cells(row) for row in parts["equal"]]),
            "",
            "Time to first token, processor milliseconds of one thread of the compressed torch model, in turns:",
            "",
            table(["method", "", "first token ms", "prefill ms", "accuracy"], [times(row) for row in parts["time"]]),
            "",
        ]
    lines += [
        "## The default plan, by the width of its filter",
        "",
        "Schedule `even`, merging to three quarters, score `residual` in 2-D, as the package makes it by itself; "
        "`bundled` is the bundled model on its own task.",
        "",
        table(["model and ground", *(f"rho {rho:g}" for rho in RHOS)],
              [[g, *(interval(row.retention) for row in parts["defaults"])] for g, parts in found.items()]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def cells(row: studies.Row) -> list[str]:
    """Return one method at equal FLOPs."""
    return [row.name, row.remark, f"{row.flops_ratio:.2f}x", interval(row.accuracy), interval(row.retention)]


def times(row: studies.Row) -> list[str]:
    """Return one method's times."""
    return [row.name, row.remark, f"{row.times.ttft:.1f}", f"{row.times.prefill:.1f}", interval(row.accuracy)]


def main() -> None:
    """Read the command line, measure, write the page and its data."""
    parser = parser_of(__doc__, 2000, "held-out questions a ground")
    parser.add_argument("--side", type=int, default=420, help="those of them that other methods are compared on")
    parser.add_argument("--speedup", type=float, default=3.0, help="prefill FLOPs to compare methods at")
    args = read(parser)
    found: dict[str, Any] = {}
    for ground in args.grounds:
        plan = Plan.from_json(json.loads((PLANS / f"{ground}.json").read_text(encoding="utf-8")))
        found[ground] = measure(
            study_of(ground, args.output, args.checkpoint, args.count, args.side), plan, args.speedup
        )
    for ground in (*GROUNDS, "bundled"):
        if ground not in found:
            study = study_of(ground, args.output, args.checkpoint, args.side, args.side)
            found[ground] = {"defaults": defaults(study)}
    about = {"count": args.count, "side": args.side, "speedup": args.speedup}
    write("glyph-deep-past", "past", parser, args, found, page, **about)


if __name__ == "__main__":
    main()
