"""Every plan with a name on every ground of every instrument: `python -m glyph_deep.studies.plans.named`.

Held-out questions; the recipes of `luvc_export.core.named_plans` were chosen on search splits alone. `pretrained` is
asked where `--merged` says its checkpoint (`pretrained.merge`). Writes `luvc_export/core/named_plans.json`, which
`luvc-export plan` prints and docs/plans.md shows, a record a line, and leaves those of films there
(`glyph_clips.named`). A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from glyph_deep.studies.plans.instruments import GROUNDS, MODELS, TEXT, studies
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.calibration.ablation.variants import Variant
from luvc_export.core.named_plans import FIGURES, PICTURES
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import solve


def records(
    name: str,
    count: int,
    folder: Path,
    some_plans: Collection[str],
    pretrained: Path | None = None,
    device: str = "cpu",
    grounds: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yield what every plan of `some_plans`, and none, keep and save on every ground of a model, or on `grounds`."""
    for ground, study in studies(name, count, folder, pretrained=pretrained, device=device, grounds=grounds):
        shapes = study.shapes
        plans = {
            plan: solve(PlanRequest(LlmRequest(plan)), shapes.grid, shapes.llm, shapes.encoder) for plan in some_plans
        }
        some = [Variant("none", (shapes.none(),)), *(Variant(plan, (solved,)) for plan, solved in plans.items())]
        for row in study.rows(f"{name}, {ground}", some):
            key = PICTURES[row.name].key if row.name in PICTURES else "none"
            encoder = encoder_ratio(plans[row.name].encoder, shapes.encoder) if row.name in PICTURES else 1.0
            yield {
                "plan": row.name,
                "key": key,
                "model": name,
                "ground": ground,
                "questions": row.questions,
                "accuracy": [round(value, 4) for value in row.accuracy],
                "retention": [round(value, 4) for value in row.retention],
                "flops": round(row.flops_ratio, 3),
                "encoder_flops": round(encoder, 3),
            }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=FIGURES, help="file of the figures")
    parser.add_argument("--measurements", type=Path, default=Path(), help="folder in which a killed run goes on")
    parser.add_argument("--count", type=int, default=1000, help="questions a ground")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where torch asks: cpu, cuda")
    parser.add_argument("--plans", nargs="+", choices=list(PICTURES), default=list(PICTURES), help="plans to measure")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="models to measure")
    parser.add_argument("--grounds", nargs="+", default=(), help="of those models; all where none is named")
    parser.add_argument("--merged", type=Path, help="checkpoint of `pretrained`; without it that model is left out")
    args = parser.parse_args()
    models = [name for name in args.models if name != "pretrained" or args.merged]
    torch.set_num_threads(args.threads)
    args.measurements.mkdir(parents=True, exist_ok=True)
    asked = args.count, args.measurements, args.plans, args.merged, args.device, args.grounds
    rows = [row for name in models for row in records(name, *asked)]
    weights = {name: weights_hash(folder)[:16] for name, folder in MODELS.items()}
    before = json.loads((args.output if args.output.is_file() else FIGURES).read_text(encoding="utf-8"))
    about = {"weights": before["about"]["weights"] | weights, "text": TEXT}
    record = {"about": about, "rows": merged(rows, args.output, weights), "first_token": before["first_token"]}
    args.output.write_text(plan_figures.written(record), encoding="utf-8")


def merged(rows: list[dict[str, Any]], file: Path, weights: dict[str, str]) -> list[dict[str, Any]]:
    """Return `rows` and those of `file` not measured again, of models with the same weights and plans with names."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"about": {"weights": {}}, "rows": []}
    same = {name for name, digest in before["about"]["weights"].items() if weights.get(name, digest) == digest}
    where = {(row["model"], row["ground"], row["plan"]): row for row in before["rows"] if row["model"] in same}
    where |= {(row["model"], row["ground"], row["plan"]): row for row in rows}
    models, plans = [*MODELS], ["none", *PICTURES, *plan_figures.INT8]
    own = [key for key in where if key[0] in models and key[2] in plans]
    order = sorted(own, key=lambda key: (models.index(key[0]), GROUNDS[key[0]].index(key[1]), plans.index(key[2])))
    return [where[key] for key in order] + [row for key, row in where.items() if key[0] not in models]


if __name__ == "__main__":
    main()
