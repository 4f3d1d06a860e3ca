"""What a cheaper encoder costs in answers: `python -m glyph_deep.studies.vision.encoder -o ../docs/results`.

The LLM prunes nothing, so what is lost the encoder lost. A killed run goes on where it stopped, and variants whose
answers are in `encoder.json` already, of this model and as many questions, are not asked again; times are taken anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glyph_deep.studies.measured import parser_of, read, write
from glyph_deep.studies.methods.compare import Counts, study_of
from glyph_deep.studies.methods.compare_page import interval
from luvc_export.calibration.ablation import encoder_section
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.calibration.ablation.study import Row, from_plain
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import encoder_ratio


def ratio(shapes: Shapes, plan: Plan) -> float:
    """Return FLOPs of the encoder's blocks on the whole picture, uncompressed, by those of `plan`."""
    return encoder_ratio(plan.encoder, shapes.encoder)


def page(figures: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the document: one row a variant, one column a ground, all from the rows measured."""
    grounds = list(figures)
    lines = [
        "# A cheaper encoder: measurements",
        "",
        f"Written by `{about['command']}` in `examples`. Do not edit: run it again.",
        "",
        "Model and task of [examples/glyph_deep](../../examples/glyph_deep/MODEL_CARD.md), 12 encoder blocks, "
        f"checkpoint sha256 `{about['weights'][:16]}`, never trained with compression; {about['count']} "
        "held-out questions a ground. The LLM prunes nothing. Retention is against the uncompressed model on the same "
        "questions, with 95 % intervals clustered by picture. FLOPs: of the encoder's blocks, uncompressed by the "
        "plan's, choosing and restoring counted (mean over the grounds). What each row does: "
        "[algorithm](../algorithm.md#pruning-in-the-encoder-and-restoring).",
        "",
        "| variant | where | encoder FLOPs | " + " | ".join(f"{ground}: retention" for ground in grounds) + " |",
        "|" + " --- |" * (3 + len(grounds)),
    ]
    for index, row in enumerate(figures[grounds[0]]["rows"]):
        rows = [figures[ground]["rows"][index] for ground in grounds]
        fewer = sum(figures[ground]["ratios"][index] for ground in grounds) / len(grounds)
        cells = " | ".join(interval(other.retention) for other in rows)
        where = row.remark if not row.name.startswith("smaller") else "before the processor"
        lines.append(f"| {row.name} | {where} | {fewer:.2f}x | {cells} |")
    lines += ["", *fastest(figures), ""]
    timed = all(figures[ground]["rows"][0].times.ttft for ground in grounds)  # figures of before have no times
    for by, name in (("vision", "encoder time"), ("ttft", "time to first token")) if timed else ():
        lines += [
            f"## At equal {name}",
            "",
            f"Processor milliseconds of one thread of the compressed torch model, in turns ({name}; uncompressed over "
            "that). Retention between the two shares of a method that are nearest, the ends of its interval too.",
            "",
        ]
        for ground in grounds:
            lines += [f"### {ground.capitalize()}", "", encoder_section.table(figures[ground]["rows"], by)]
    return "\n".join(lines).rstrip("\n") + "\n"


def fastest(figures: dict[str, Any], bar: float = 0.99) -> list[str]:
    """Return what has the fewest FLOPs of what keeps `bar` of the answers, on every ground and on each."""
    lines = []
    grounds = list(figures)
    for some in ([grounds] if len(grounds) > 1 else []) + [[ground] for ground in grounds]:
        fits: list[tuple[float, Row]] = []
        for index, row in enumerate(figures[some[0]]["rows"]):
            if all(figures[ground]["rows"][index].retention.value >= bar for ground in some):
                fits.append((sum(figures[ground]["ratios"][index] for ground in some) / len(some), row))
        best = max(fits, key=lambda fit: fit[0], default=None)
        name = "every ground" if len(some) > 1 else some[0]
        named = "nothing" if best is None else f"{best[1].name} ({best[1].remark}), {best[0]:.2f}x"
        lines.append(f"- Fewest FLOPs at a retention of {bar:g} or more on {name}: {named}.")
    return lines


def answered(file: Path, checkpoint: Path, count: int, ground: str) -> dict[tuple[str, str], Row]:
    """Return the rows of a ground in the figures that a run before left, if they are of this model and as many."""
    if not file.is_file():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    about = data.pop("about")
    if (about["weights"], about["count"]) != (weights_hash(checkpoint), count) or ground not in data:
        return {}
    return {(row.name, row.remark): row for row in from_plain(data[ground])["rows"]}


def main() -> None:
    """Read the command line, measure, write the page and its data."""
    parser = parser_of(__doc__, 420, "questions a ground")
    args = read(parser)
    figures: dict[str, Any] = {}
    for ground in args.grounds:
        study = study_of(ground, args.output, args.checkpoint, Counts(args.count, 1, 1))
        some = [Variant("uncompressed", (study.shapes.none(),)), *encoder_section.cheaper_encoders(study.shapes)]
        answers = answered(args.output / "encoder.json", args.checkpoint, args.count, ground)
        rows = [answers.get((v.name, v.remark)) or study.rows(v.name, [v])[0] for v in some]
        ratios = [ratio(study.shapes, v.plans[0]) for v in some]
        figures[ground] = {"rows": study.timed(rows, some), "ratios": ratios}
    write("encoder", "vision.encoder", parser, args, figures, page, count=args.count)


if __name__ == "__main__":
    main()
