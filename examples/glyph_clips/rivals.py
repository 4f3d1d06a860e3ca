"""Plans for clips against `evs`, on thousands of other films: `python -m glyph_clips.rivals`.

The study's 600 questions leave a difference of a hundredth open. Here each plan is asked about films that the study
does not show (seeds from 1 on of the same generator and split), at a quarter and at an eighth of the tokens, in lots of
100 films. Answers are kept beside the results: a killed run, or a larger `--lots`, goes on where the last one stopped.
Writes `docs/results/clip-rivals.json`, a record a line, and `docs/results/clip-rivals.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import Store, pack, unpack, weights_hash
from luvc_export.core.plan import Plan
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

from .cases import CHECKPOINT, cases
from .study import BASELINE, PLANS, RESULTS, TOKENS, Study, nothing, plan

SPLIT = "heldout"
LOT = 300  # questions, three about each film
#: Shares of the tokens that are kept from layer 1 on.
SHARES = (4, 8)
RIVALS = ("stride", BASELINE, "dycoke", "vidcom2", "holitom", "scope", "maxmin")
#: What the named plan for films prunes by.
OURS = "maxmin"


def plans() -> dict[tuple[str, int], Plan]:
    """Every plan by its score and its tokens; `none` first."""
    budgets = [TOKENS // share for share in SHARES]
    return {("none", TOKENS): nothing()} | {
        (name, keep): plan(*PLANS[name], keep) for keep in budgets for name in RIVALS
    }


def answers(store: Store, checkpoint: Checkpoint, weights: str, lot: int) -> tuple[list[int], dict[Any, list[bool]]]:
    """Film of every question of a lot, and what each plan answers right; `lot` from 1 on is the films' seed."""
    study: Study | None = None
    right: dict[Any, list[bool]] = {}
    for key, one in plans().items():

        def measured(one: Plan = one) -> str:
            nonlocal study
            study = study or Study(checkpoint, list(cases(SPLIT, LOT, lot)))
            return pack(study.of(one).tolist())

        right[key] = unpack(store.of([weights, lot, LOT, one.to_json()], measured), LOT)
    return [1000 * lot + number // 3 for number in range(LOT)], right


def records(films: Sequence[int], right: dict[Any, np.ndarray]) -> list[dict[str, Any]]:
    """A row for every plan, with its difference to the baseline at as many tokens and its interval."""
    full, rows = right["none", TOKENS], list[dict[str, Any]]()
    for (name, keep), own in right.items():
        row: dict[str, Any] = {"plan": name, "tokens": keep, "questions": len(own)}
        row["accuracy"] = [round(value, 4) for value in intervals.accuracy(own, films)]
        row["retention"] = [round(value, 4) for value in intervals.retention(own, full, films)]
        if (BASELINE, keep) in right and name != BASELINE:
            gap = intervals.difference(own, right[BASELINE, keep], films)
            row["against"] = [round(value, 4) for value in gap]
        rows.append(row)
    return rows


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Whether ours beats the baseline, by the interval of the paired difference, at each number of tokens."""
    lines = []
    for row in rows:
        if row["plan"] != OURS:
            continue
        value, low, high = row["against"]
        better = "beats" if low > 0 else "loses to" if high < 0 else "is not told apart from"
        lines.append(
            f"At {row['tokens']} of {TOKENS} tokens `{OURS}`, which the named plan `film` prunes by, {better}"
            f" `{BASELINE}`: {value:+.4f} ({low:+.4f} to {high:+.4f}) of {row['questions']} paired questions."
        )
    return lines


def page(rows: Sequence[dict[str, Any]], weights: str) -> str:
    """Return the document."""
    lines = [
        f"# Plans for clips against `{BASELINE}`, on more films",
        "",
        "Written by `python -m glyph_clips.rivals` in `examples`. Do not edit: run it again.",
        "",
        f"`glyph_clips`, checkpoint sha256 `{weights}`, split `{SPLIT}`, {rows[0]['questions']} questions, three about"
        " each film of 16 frames; none of these films is among those of [the study](glyph-clips.md), where the plans"
        " are described. Intervals are 95 %, clustered by film; retention is against the uncompressed model on the same"
        f" questions. Against `{BASELINE}`: share of right answers more, on the same questions at as many tokens.",
        "",
        *verdict(rows),
        "",
        f"| plan | tokens | accuracy | retention | against {BASELINE} |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        accuracy, retention = ("{:.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in ("accuracy", "retention"))
        gap = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["against"]) if "against" in row else ""
        lines.append(f"| {row['plan']} | {row['tokens']} | {accuracy} | {retention} | {gap} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Read the command line, answer and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lots", type=int, default=10, help=f"of {LOT} questions each")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the figures and the page")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint, weights = open_checkpoint(str(CHECKPOINT)), weights_hash(CHECKPOINT)[:16]
    store = Store(args.output / "clip-rivals-measurements.json", {})
    films, right = list[int](), dict[Any, list[bool]]()
    for lot in range(1, args.lots + 1):
        numbers, own = answers(store, checkpoint, weights, lot)
        films += numbers
        for key, values in own.items():
            right.setdefault(key, []).extend(values)
        rows = records(films, {key: np.array(values) for key, values in right.items()})
        print(f"{len(films)} questions", *verdict(rows), sep="\n", flush=True)
    text = ",\n".join(json.dumps(row) for row in rows)
    (args.output / "clip-rivals.json").write_text(f'{{"weights": "{weights}", "rows": [\n{text}\n]}}\n', "utf-8")
    (args.output / "clip-rivals.md").write_text(page(rows, weights), encoding="utf-8")


if __name__ == "__main__":
    main()
