"""What plans keep of another seed, beside the committed one: `python -m pretrained.seeds NAMED EVALUATION`.

NAMED is what `glyph_deep.studies.plans.named -o NAMED --models pretrained --merged CHECKPOINT` wrote of the other
seed, EVALUATION what `pretrained.evaluate --out EVALUATION` did. Writes docs/results/pretrained-seeds.json, a record a
line, and the tables of docs/results/pretrained.md; without arguments the tables alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from luvc_export.calibration.intervals import Interval
from luvc_export.core.files import pages
from luvc_export.core.named_plans import FIGURES as NAMED

PAGE = Path(__file__).parents[2] / "docs" / "results" / "pretrained.md"
FIGURES = PAGE.with_name("pretrained-seeds.json")
FIRST = Path(__file__).with_name("evaluation.json")


def records(named: Path, evaluation: Path) -> list[dict[str, Any]]:
    """Return the rows of `pretrained` in a file of named plans, and what the weights keep of the base."""
    rows = [row for row in json.loads(named.read_text())["rows"] if row["model"] == "pretrained"]
    kept = ("plan", "ground", "questions", "accuracy", "retention")
    return [{"evaluation": json.loads(evaluation.read_text())["summary"]}, *({k: row[k] for k in kept} for row in rows)]


def apart(first: list[float], second: list[float]) -> bool:
    """Whether two figures with their 95 % intervals (value, low, high) have none in common."""
    return first[1] > second[2] or second[1] > first[2]


def tables(both: list[list[dict[str, Any]]]) -> str:
    """Return two tables of (first seed, another): what the weights keep of the base, and what plans keep of them."""
    summaries = [each[0]["evaluation"] for each in both]
    lines = [
        (f"perplexity, {name}, times the base's", *(f"{one['perplexity'][name]['ratio']:.3f}" for one in summaries))
        for name in summaries[0]["perplexity"]
    ]
    lines.append(("facts of 50", *(str(one["facts"][0]) for one in summaries)))
    lines += [
        (f"held-out answers, {ground}", *(Interval(*one["answers"][ground]["accuracy"]).text(3) for one in summaries))
        for ground in summaries[0]["answers"]
        if all(ground in one["answers"] for one in summaries)
    ]
    seen = [{(row["ground"], row["plan"]): row for row in each[1:]} for each in both]
    plans = [
        (
            ground,
            plan,
            *(str(of[ground, plan]["questions"]) for of in seen),
            *(Interval(*of[ground, plan]["retention"]).text(3) for of in seen),
            "yes" if apart(*(of[ground, plan]["retention"] for of in seen)) else "no",
        )
        for ground, plan in seen[1]
        if (ground, plan) in seen[0] and plan != "none"
    ]
    head = ("ground", "plan", "questions", "of the second", "kept", "of the second", "apart")
    return pages.table(("", "first seed", "second"), lines, left=1) + "\n\n" + pages.table(head, plans, left=2)


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="NAMED and EVALUATION of the other seed")
    args = parser.parse_args()
    if len(args.files) not in (0, 2):
        parser.error("two files are needed, NAMED and EVALUATION, or none")
    if args.files:
        lines = map(json.dumps, records(*args.files))
        FIGURES.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    both = [records(NAMED, FIRST), json.loads(FIGURES.read_text(encoding="utf-8"))]
    PAGE.write_text(pages.within(PAGE.read_text(encoding="utf-8"), "seeds", tables(both)), encoding="utf-8")


if __name__ == "__main__":
    main()
