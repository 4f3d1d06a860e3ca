"""Every plan with a name on films of moving digits: `python -m glyph_clips.named`.

Held-out questions; the recipe that is ours among those for clips was chosen on the search split. Writes this model's
rows in `luvc_export/core/named_plans.json`, which `luvc-export plan` prints and docs/plans.md shows, and leaves those
of other models, and of plans that `--plans` does not name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.core.named_plans import CLIPS, FIGURES, NAMED, PICTURES
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.plan.cost import cost
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import solve
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.compression import scores

from .cases import CHECKPOINT, cases
from .films import GRID, MOMENTS
from .study import Study, nothing

MODEL, GROUND = plan_figures.FILMS[0][:2]
TEXT = 64  # tokens that costs count, as `luvc-export plan` does


def plan_of(name: str, checkpoint: Checkpoint) -> Plan:
    """Return the plan of that name for a whole film."""
    if name == "none":
        return nothing()
    family, config = checkpoint.family, checkpoint.config
    request = PlanRequest(LlmRequest(name), sharing=Sharing(MOMENTS))
    return scores.described(solve(request, GRID, family.decoder_shape(config), family.encoder_shape(config)))


def rows(study: Study, plans: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what each of `plans` keeps and saves."""
    checkpoint, films = study.checkpoint, [case.picture for case in study.asked]
    family, config = checkpoint.family, checkpoint.config
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    full = study.of(plan_of("none", checkpoint))
    for name in plans:
        plan = plan_of(name, checkpoint)
        right, costs = study.of(plan), cost(plan, llm, TEXT, encoder=encoder)
        yield {
            "plan": name,
            "key": NAMED[name].key if name in NAMED else "none",
            "model": MODEL,
            "ground": GROUND,
            "questions": len(right),
            "accuracy": [round(value, 4) for value in intervals.accuracy(right, films)],
            "retention": [round(value, 4) for value in intervals.retention(right, full, films)],
            "flops": round(costs.flops_ratio, 3),
            "encoder_flops": round(costs.encoder_ratio, 3),
        }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=FIGURES, help="file of the figures")
    parser.add_argument("--questions", type=int, default=600, help="three about each film")
    parser.add_argument("--plans", nargs="+", choices=("none", *NAMED), default=("none", *PICTURES, *CLIPS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    study = Study(open_checkpoint(str(CHECKPOINT)), list(cases("heldout", args.questions)))
    records = list[dict[str, Any]]()
    for row in rows(study, args.plans):
        print(row, flush=True)
        records.append(row)
    record = json.loads((args.output if args.output.is_file() else FIGURES).read_text(encoding="utf-8"))
    record["about"]["weights"][MODEL] = weights_hash(CHECKPOINT)[:16]
    own = {row["plan"]: row for row in [*(row for row in record["rows"] if row["model"] == MODEL), *records]}
    ordered = [own[name] for name in ("none", *NAMED) if name in own]
    record["rows"] = [*(row for row in record["rows"] if row["model"] != MODEL), *ordered]
    args.output.write_text(plan_figures.written(record), encoding="utf-8")


if __name__ == "__main__":
    main()
