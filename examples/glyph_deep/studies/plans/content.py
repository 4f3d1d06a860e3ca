"""Which pictures are pages, told by pixels alone: `python -m glyph_deep.studies.plans.content -o ../docs/results`.

Of the units of 28 x 28 pixels, those count as text that span `SPAN` grey levels or more, change sides of the middle of
their range `ACROSS` times a row and `DOWN` times a column or more, and cross half of that range in two pixels at
`SHARP` of their places. A picture with `LEAST` of such units or more would get `staged`, any other `lean`.
The numbers were set on the search splits; what the two plans keep and take are the figures of `named_plans.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glyph_deep.data.cases import cases
from luvc_export.core.plan import figures

UNIT, SPAN, ACROSS, DOWN, SHARP = 28, 64, 1.5, 1.0, 0.06
LEAST = 0.2
SEARCH = ("search-plain", "search-textured", "search-pages")
HELD_OUT = ("plain", "textured", "pages", "fonts", "photographs")
COMMAND = "python -m glyph_deep.studies.plans.content -o ../docs/results"
PAGE, ELSE = "safe", "lean"


def text_share(picture: NDArray[np.uint8]) -> float:
    """Return the share of units of a picture, uint8 [H, W, 3], that look like text."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    rows, columns = (side // UNIT for side in grey.shape)
    units = grey[: rows * UNIT, : columns * UNIT].reshape(rows, UNIT, columns, UNIT).swapaxes(1, 2)
    low, high = units.min((2, 3)), units.max((2, 3))
    above = units > ((low + high) / 2)[..., None, None]
    across = (above[..., 1:] != above[..., :-1]).sum((2, 3)) / UNIT
    down = (above[..., 1:, :] != above[..., :-1, :]).sum((2, 3)) / UNIT
    steep = np.abs(units[..., 2:] - units[..., :-2]) > ((high - low) / 2)[..., None, None]
    text = (high - low >= SPAN) & (across >= ACROSS) & (down >= DOWN) & (steep.mean((2, 3)) >= SHARP)
    return float(text.mean())


def pictures(split: str) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a split, each once, in the order of its questions."""
    last = -1
    for case in cases(split, 10**9, 0):
        if case.picture != last:
            last = case.picture
            yield case.images[0]


def measured(split: str, count: int) -> dict[str, float | str | int]:
    """Return how a split's pictures would be sent."""
    shares = np.array([text_share(picture) for picture in islice(pictures(split), count)])
    low, middle, high = np.quantile(shares, (0, 0.5, 1))
    shares_of = {"least": low, "median": middle, "most": high, "to_page_plan": (shares >= LEAST).mean()}
    return {
        "split": split,
        "pictures": len(shares),
        **{name: round(float(value), 4) for name, value in shares_of.items()},
    }


def page(rows: list[dict[str, float | str | int]]) -> str:
    """Return the document."""
    times = {name: figures.first_tokens()[name].seconds[0] for name in (PAGE, ELSE)}
    lines = [
        "# Choosing a plan by what a picture shows: measured, not shipped",
        "",
        f"Written by `{COMMAND}` in `examples`. Do not edit: run it again.",
        "",
        f"Units that look like text, of all units of a picture; {LEAST:.0%} of them or more make it a page, which "
        f"`{PAGE}` would answer, and `{ELSE}` any other. Set on the search splits alone. Kept: of the 1,000 held-out "
        f"questions of each ground under `{PAGE}` and `{ELSE}` ([plans](../plans.md)), by the share of pictures that "
        f"each would get. First token: their {times[PAGE]:.2f} and {times[ELSE]:.2f} s.",
        "",
        "| split | pictures | text-like units: least, median, most | as a page | kept | first token s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = float(row["to_page_plan"])
        spread = ", ".join(f"{float(row[name]):.3f}" for name in ("least", "median", "most"))
        key = ("glyph_deep", str(row["split"]))
        both = [figures.of(name).get(key) for name in (PAGE, ELSE)]
        kept = seconds = ""
        if both[0] and both[1]:
            kept = f"{share * both[0].retention[0] + (1 - share) * both[1].retention[0]:.3f}"
            seconds = f"{share * times[PAGE] + (1 - share) * times[ELSE]:.2f}"
        lines.append(f"| {row['split']} | {row['pictures']} | {spread} | {share:.3f} | {kept} | {seconds} |")
    return "\n".join([*lines, "", *WHY, ""])


WHY = (
    "Not shipped: where each plan packs its own weights (OpenVINO in bf16), two plans open take the memory of two, and "
    "a server that holds one at a time (`--open-plans 1`) would load again at every change between pages and "
    "photographs, for longer than a first token takes. Neither was measured with pictures in turn. The pages here are "
    "full of text; a page with little of it, or a sign in a photograph, would go to the plan that loses some of it.",
)


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and its figures")
    parser.add_argument("--count", type=int, default=100, help="pictures a split")
    args = parser.parse_args()
    rows = [measured(split, args.count) for split in (*SEARCH, *HELD_OUT)]
    text = ",\n".join(json.dumps(row) for row in rows)
    (args.output / "content.json").write_text(f'{{"rows": [\n{text}\n]}}\n', encoding="utf-8")
    (args.output / "content.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
