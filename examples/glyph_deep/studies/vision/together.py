"""What a cheaper encoder costs before a cheaper LLM: `python -m glyph_deep.studies.vision.together -o FOLDER`.

The LLM's plan is the one that `luvc-export plan --data` found on each ground (`plans/GROUND.json`), alone and behind
encoders that prune and restore. Held-out questions, retention against the uncompressed model on the same ones. Prints
Markdown; a killed run goes on where it stopped.
"""

from __future__ import annotations

import json

from glyph_deep.studies.measured import parser_of, read
from glyph_deep.studies.methods.compare_page import interval
from glyph_deep.studies.methods.past import PLANS, study_of
from luvc_export.calibration.ablation.variants import Variant
from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.core.plan.merging import earliest, third


def variants(searched: Plan, blocks: int, window: int) -> list[Variant]:
    """Return `found` alone and behind encoders in which a share of the units goes on."""
    early, later = earliest(blocks), third(blocks)
    prunes = {
        "LLM alone": None,
        "0.8 after a fifth": EncoderPrune(early, 0.8),
        "0.75 after a fifth": EncoderPrune(early, 0.75),
        "0.5 after a third": EncoderPrune(later, 0.5),
        "0.5 of every window after a third": EncoderPrune(later, 0.5, window=window),
    }
    return [Variant(name, (searched.changed(prune=prune),)) for name, prune in prunes.items()]


def main() -> None:
    """Read the command line, measure, print."""
    args = read(parser_of(__doc__, 420, "questions a ground"))
    print("| ground | encoder | accuracy | retention |\n| --- | --- | --- | --- |")
    for ground in args.grounds:
        study = study_of(ground, args.output, args.checkpoint, args.count, 1)
        searched = Plan.from_json(json.loads((PLANS / f"{ground}.json").read_text(encoding="utf-8")))
        encoder = study.shapes.encoder
        for row in study.rows(f"together-{ground}", variants(searched, encoder.blocks, encoder.window)):
            print(f"| {ground} | {row.name} | {interval(row.accuracy)} | {interval(row.retention)} |", flush=True)


if __name__ == "__main__":
    main()
