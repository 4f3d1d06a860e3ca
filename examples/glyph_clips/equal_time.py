"""Plans for clips at equal time to the first token: `python -m glyph_clips.equal_time`.

A join of two measurements, because at this model's size a first token is mostly calls of small operators. Accuracy is
this model's. Time is that of the 9 + 8 block cut of the 3B shape on OpenVINO (docs/results/first-token-clips.md): what
its encoder and its LLM took of whole films and under `film`, with the LLM's time linear in the mean number of visual
tokens of its layers and the encoder's in the units it sees. `safe`, which was measured too and fits nothing here, says
how far that line is off. A rival of `film` sees fewer moments or smaller frames, for which the encoder takes less, and
spends what it saves on tokens; where a grid allows no equal time, both sides of it stand there. Writes
`docs/results/clip-first-token.json`, a record a line, and its page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import Store, pack, unpack, weights_hash
from luvc_export.export.checkpoint import open_checkpoint

from .cases import CHECKPOINT, SIZE, ClipCase, cases
from .films import GRID, MOMENTS
from .study import PLANS, RESULTS, TOKENS, Study, fewer_frames, nothing, plan

#: Seconds of encoder and LLM, and mean visual tokens of a layer of 2048, as docs/results/first-token-clips.md has them.
WHOLE, FILM, SAFE = (2.15, 3.62, 2048), (2.11, 1.31, 683), (2.11, 1.60, 889)
LAYERS = 9
UNIT = SIZE[0] // GRID[0]
OURS = "film (maxmin)"
RIVALS = ("evs", "stride", "random", "scope", "holitom", "dycoke", "vidcom2", "residual")


class Row(NamedTuple):
    """What is asked: a score or none, tokens from layer 1 on, moments, units along a side."""

    name: str
    score: str | None
    keep: int
    moments: int
    side: int

    @property
    def units(self) -> int:
        """Visual tokens before any are left out."""
        return self.moments * self.side**2


def llm_seconds(share: float) -> float:
    """The LLM's time at a mean share of the visual tokens, on the line through `film` and no compression."""
    slope = (WHOLE[1] - FILM[1]) / (WHOLE[2] - FILM[2])
    return FILM[1] + slope * (share * WHOLE[2] - FILM[2])


def seconds(row: Row) -> float:
    """To the first token."""
    mean = (row.units + (LAYERS - 1) * row.keep) / LAYERS / TOKENS
    return WHOLE[0] * row.units / TOKENS + llm_seconds(mean)


def most(moments: int, side: int, limit: float) -> int:
    """Tokens from layer 1 on with which a film of that shape takes at most as long; all of them where it may."""
    row = Row("", None, 0, moments, side)
    return max((keep for keep in range(1, row.units + 1) if seconds(row._replace(keep=keep)) <= limit), default=0)


def rows() -> list[Row]:
    """Every row, ours first."""
    quarter, side = TOKENS // 4, GRID[0]
    ours = Row(OURS, "maxmin", quarter, MOMENTS, side)
    limit = seconds(ours)
    asked = [ours, *(Row(name, name, quarter, MOMENTS, side) for name in RIVALS)]
    for moments in (6, 7):
        keep = most(moments, side, limit)
        asked.append(Row(f"{moments} of {MOMENTS} moments, stride in space", "stride", keep, moments, side))
    for moments in (4, 5):
        units = moments * side**2
        asked.append(Row(f"{moments} of {MOMENTS} moments, every token", None, units, moments, side))
    for smaller in (4, 5):
        units = MOMENTS * smaller**2
        asked.append(Row(f"frames of {smaller}/{side} of the side, every token", None, units, MOMENTS, smaller))
    return asked


def resized(asked: Sequence[ClipCase], side: int) -> list[ClipCase]:
    """The films at `side` units along a side."""
    size = (side * UNIT, side * UNIT)
    bicubic = Image.Resampling.BICUBIC
    return [
        replace(case, video=tuple(np.asarray(Image.fromarray(frame).resize(size, bicubic)) for frame in case.video))
        for case in asked
    ]


def right(study: Study, row: Row) -> np.ndarray:
    """Whether each case is answered right, bool [cases]."""
    grid = (row.side, row.side)
    one = nothing(row.moments, grid) if row.score is None else plan(*PLANS[row.score], row.keep, row.moments, grid)
    if row.moments == MOMENTS and grid == GRID:
        return study.of(one)
    asked = fewer_frames(study.asked, row.moments) if row.moments < MOMENTS else study.asked
    asked = resized(asked, row.side) if grid != GRID else asked
    return study.shown(asked, one, (row.side * UNIT, row.side * UNIT))


def page(records: Sequence[dict[str, Any]], weights: str) -> str:
    """Return the document."""
    off = llm_seconds(SAFE[2] / WHOLE[2]) / SAFE[1] - 1
    lines = [
        "# Plans for clips at equal time to the first token",
        "",
        "Written by `python -m glyph_clips.equal_time` in `examples`. Do not edit: run it again.",
        "",
        f"A join: accuracy is that of `glyph_clips`, checkpoint sha256 `{weights}`, {records[0]['questions']} held-out"
        " questions, three about each film; seconds are those of the 3B shape at 9 + 8 blocks on OpenVINO in bf16"
        " ([a clip's first token](first-token-clips.md), on another CPU"
        " with AMX), at the same shares of the tokens. Nothing was timed for this page: the LLM's time is taken as"
        " linear in the mean number of visual tokens of a layer, through `film` and no compression, and the encoder's"
        f" as linear in its units. `staged`'s LLM, measured and on no side of that fit, takes {-off:+.1%} of what the"
        " line says. Only `film` was timed there with its score, so every score is taken to cost what its does.",
        "",
        "Fewer moments and smaller frames save the encoder's time too, and may keep more tokens for it. Where whole"
        " moments or whole units allow no equal time, one row is sooner and one later. Intervals are 95 %, clustered"
        " by film; against `film`: share of right answers more, on the same questions.",
        "",
        "| film and plan | tokens | kept from layer 1 on | first token s | accuracy | retention | against `film` |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in records:
        shares = ["{:.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in ("accuracy", "retention")]
        gap = "" if row["against"] is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["against"])
        cells = [row["plan"], row["units"], row["keep"], f"{row['seconds']:.2f}", *shares, gap]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Read the command line, answer and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=600, help="three about each film")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the figures and the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights, store = weights_hash(CHECKPOINT)[:16], Store(args.output / "clip-first-token-measurements.json", {})
    study = Study(open_checkpoint(str(CHECKPOINT)), list(cases("heldout", args.questions)))
    films = [case.picture for case in study.asked]

    def answered(row: Row) -> np.ndarray:
        key = [weights, args.questions, *row[1:]]
        return np.array(unpack(store.of(key, lambda: pack(right(study, row).tolist())), args.questions))

    whole = Row("none", None, TOKENS, MOMENTS, GRID[0])
    full, ours, records = answered(whole), answered(rows()[0]), list[dict[str, Any]]()
    for row in (*rows(), whole):
        own = answered(row)
        record: dict[str, Any] = {"plan": row.name, "units": row.units, "keep": row.keep, "questions": len(own)}
        record["seconds"] = round(seconds(row), 3)
        record["accuracy"] = [round(value, 4) for value in intervals.accuracy(own, films)]
        record["retention"] = [round(value, 4) for value in intervals.retention(own, full, films)]
        gap = None if row.name == OURS else [round(value, 4) for value in intervals.difference(own, ours, films)]
        records.append(record | {"against": gap})
        print(records[-1], flush=True)
    text = ",\n".join(json.dumps(record) for record in records)
    (args.output / "clip-first-token.json").write_text(f'{{"weights": "{weights}", "rows": [\n{text}\n]}}\n', "utf-8")
    (args.output / "clip-first-token.md").write_text(page(records, weights), encoding="utf-8")


if __name__ == "__main__":
    main()
