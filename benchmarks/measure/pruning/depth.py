"""The whole profile by depth of trained models, beside what `plan --data` measures of it: writes depth.json.

    python benchmarks/measure/pruning/depth.py docs/results --measurements FOLDER [--pretrained CHECKPOINT [--row NAME]]

`--pretrained` is a checkpoint that `pretrained.merge` makes (examples/pretrained), another seed's or a control's under
another name: without it its row stays as it is.
Every layer and every quarter is asked, on the held-out half of the data, which the profile of few passes never sees but
for its last check. A killed run goes on in FOLDER. `tests/docs/test_results.py` compares the two.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from luvc_export.calibration import datasets, runners, tasks
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.budgets.depth import BAR, MEASUREMENTS, profile, quarters
from luvc_export.calibration.budgets.part import Chooser
from luvc_export.calibration.budgets.space import Space, cut
from luvc_export.calibration.budgets.subject import Subject
from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.core.files.json_file import dumps
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.plan.cost import cost
from luvc_export.export.checkpoint import open_checkpoint

MODELS, DATA = ("glyph_shallow", "glyph_deep"), "glyph-deep-plain"
PRETRAINED = "pretrained"


def figures(trial: PlanTrial) -> list[float]:
    """Return the share of answers that stay, and its interval."""
    return [round(value, 4) for value in trial.agreement]


def whole(subject: Subject, folder: Path, device: str) -> dict[str, Any]:
    """Return the profile of every layer."""
    llm, model = subject.llm, runners.load_model(subject.checkpoint, device=device)
    space = Space(subject.grid, llm.layers, llm.cached, switches={"padding": True}, shared=llm.shared)
    store = Store(folder / MEASUREMENTS, subject.about)
    choose = Chooser(subject.checkpoint, subject.data, subject.image, model)
    part = subject.parts(model, space.none(), store, print_step, choose)[1]
    trials = Trials(part, BAR, lambda plan: cost(plan, llm, part.text).flops, store)
    gone = [trials.whole(cut(space, layer)) for layer in range(llm.layers)]
    carried = [
        trials.whole(space.none().changed(kv_only=tuple(n for n in subject.freezable if n >= layer)))
        for layer in range(llm.layers)
    ]
    return {
        "questions": len(part.clusters),
        "gone_before": [figures(trial) for trial in gone],
        "carried_from": [figures(trial) for trial in carried],
        "quarters": [
            {"layers": [each.first, each.stop], "kept": each.trial and figures(trials.whole(each.trial.plan))}
            for each in quarters(trials, space, llm.layers, subject.freezable)
        ],
    }


def print_step(stage: str, done: float) -> None:
    """Say that something was measured."""
    print(stage, round(done, 2), flush=True)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of depth.json")
    parser.add_argument("--measurements", type=Path, required=True, help="folder in which a killed run goes on")
    parser.add_argument("--pretrained", type=Path, help="measure this checkpoint in place of the others")
    parser.add_argument("--row", default=PRETRAINED, help="name of that checkpoint's row")
    parser.add_argument("--device", default="cpu", help="where torch asks: cpu, cuda")
    parser.add_argument("--count", type=int, default=480, help="questions, half of them for each profile")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.output / "depth.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    folders = {name: tasks.EXAMPLES / name / "checkpoint" for name in MODELS if not args.pretrained}
    folders |= {args.row: args.pretrained} if args.pretrained else {}
    for name, weights in folders.items():
        checkpoint, folder = open_checkpoint(str(weights)), args.measurements / name
        source: Path | str = DATA
        if args.pretrained:
            sys.path.append(str(tasks.EXAMPLES))
            from pretrained import questions

            source = questions.write(folder / "data", args.count)
        data, size = datasets.load(source, count=args.count), tasks.find(DATA).image_size
        folder.mkdir(parents=True, exist_ok=True)
        asked = profile(checkpoint, data, size, folder=folder, device=args.device, progress=print_step)
        rows[name] = {
            "weights": weights_hash(checkpoint.folder)[:16],
            "data": {**data.to_json(), "name": Path(data.name).name},
            "layers": asked.none.layers,
            "bar": BAR,
            "whole": whole(Subject(checkpoint, data, 0.5, size), folder, args.device),
            "proposed": {
                "horizon": asked.horizon.layer,
                "quarters": [
                    {"layers": [each.first, each.stop], "free": each.free, "kept": each.trial and figures(each.trial)}
                    for each in asked.quarters
                ],
                "stripes": str(asked.proposal.stripes),
                "keep": list(asked.chosen.plan.keep),
                "kv_only": list(asked.chosen.plan.llm.kv_only),
                "turns": asked.chosen.plan.llm.turns,
                "flops": round(asked.flops / asked.chosen.flops, 3),
                "calibration": figures(asked.chosen),
                "held_out": figures(asked.checked),
                "passes": round(asked.passes, 2),
            },
        }
        print(dumps(rows[name]), flush=True)
    write_whole(path, (dumps(rows) + "\n").encode())


if __name__ == "__main__":
    main()
