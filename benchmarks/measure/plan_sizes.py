"""What the named plans save at published sizes, by the cost model: no weights, no times, no answers.

Run: python benchmarks/measure/plan_sizes.py -o docs/results. Every shape of ``make-random`` as published, one picture
of the size that is exported where none is named, 64 text tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from luvc_export.core.named_plans import PICTURES
from luvc_export.core.plan.cost import cost
from luvc_export.errors import LuvcError, PlanError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.synthetic.presets import PRESETS
from luvc_export.pipeline import make_plan

TEXT = 64
NAME = "plan-sizes"
COMMAND = "python benchmarks/measure/plan_sizes.py -o docs/results"


def saved(folder: Path) -> tuple[int, dict[str, tuple[float, float, float] | None]]:
    """Visual tokens of a picture, and by plan how many times fewer FLOPs of the LLM and encoder and bytes of cache.

    A plan that the model refuses has None.
    """
    checkpoint = open_checkpoint(str(folder), weights=False)
    llm, encoder = (
        checkpoint.family.decoder_shape(checkpoint.config),
        checkpoint.family.encoder_shape(checkpoint.config),
    )
    factors: dict[str, tuple[float, float, float] | None] = {}
    for name in PICTURES:
        try:
            costs = cost(make_plan(checkpoint, name), llm, TEXT, encoder=encoder)
            factors[name] = (costs.flops_ratio, costs.encoder_ratio or 1.0, costs.kv_ratio)
        except PlanError:
            factors[name] = None
    return make_plan(checkpoint, "none").units, factors


def page(rows: list[dict[str, Any]], absent: list[str]) -> str:
    """The results as a page."""
    lines = [
        "# What the named plans save at published sizes",
        "",
        f"Written by `{COMMAND}`. Do not edit: run it again.",
        "",
        "Times fewer FLOPs of the LLM's prefill / of the encoder / bytes of KV cache than uncompressed, by"
        f" the cost model: one picture of the default size and {TEXT} text tokens. No weights were loaded and"
        " nothing was timed; what plans keep and how much sooner a first token came stands in"
        " [plans](../plans.md). The fewer visual tokens a picture has beside the text, the less there is to"
        " save.",
        "",
        f"| shape | visual tokens | {' | '.join(f'`{name}`' for name in PICTURES)} |",
        "|---|---:|" + "---:|" * len(PICTURES),
    ]
    for row in rows:
        cells = ["refused" if one is None else "{:.2f} / {:.2f} / {:.2f}".format(*one) for one in row["plans"].values()]
        lines.append(f"| {row['shape']} | {row['tokens']} | {' | '.join(cells)} |")
    lines += ["", f"Not opened here: {', '.join(absent)}."] if absent else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    rows: list[dict[str, Any]] = []
    absent: list[str] = []
    for name, preset in PRESETS.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(preset.config))
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(preset.processor))
            try:
                tokens, factors = saved(Path(folder))
            except LuvcError as error:
                absent.append(f"{name} ({error.what})")
                continue
        rounded = {plan: one and [round(value, 3) for value in one] for plan, one in factors.items()}
        rows.append({"shape": name, "tokens": tokens, "plans": rounded})
    (output / f"{NAME}.md").write_text(page(rows, absent), encoding="utf-8")
    records = ",\n".join("  " + json.dumps(row) for row in rows)
    (output / f"{NAME}.json").write_text(f'{{"command": "{COMMAND}", "rows": [\n{records}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
