"""Write the model card: `python -m glyph_vqa.card evaluation.json --recipe recipe.json --out MODEL_CARD.md`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from luvc_export.demo.questions import CHAINS, KINDS
from luvc_export.demo.scene import COLUMNS, FONTS, GRID, HEIGHT, ROWS, SIZES, WIDTH

TEMPLATE = """# Model card: glyph VQA

A Qwen2.5-VL model of {millions} M parameters (float16) that answers questions about pictures of coloured digits. It exists to
measure visual-token compression: it answers from what it sees, and several kinds of question need the picture until
late in the decoder. Weights: sha256 `{digest}`.

{shape}

## Data

Pictures are drawn as they are needed, from a seed: {height} x {width} pixels (height x width), {rows} rows and {columns} columns
of cells, nine or ten of the ten digits, each at most once, in nine colours, some shared by two or three digits; noise,
gradients, lines, specks and coloured shapes that no question asks about. {grid} visual tokens.
The train and held-out splits share {fonts} fonts and the sizes {smallest} to {largest} pixels, and no seed. The harder split has
fonts ({hard_fonts})
and sizes ({hard_sizes}) never seen in training, more noise and more lines.

"next" is the digit one larger (0 follows 9). Chains ({chains})
look things up one after another; larger, sum and two pictures look up two things that do not depend on each other.

## What it shows

{bars}

Accuracy in percent with 95 % intervals clustered by picture; {count} questions of each kind, a picture is asked one question
of each kind. Greedy decoding through transformers; an answer is right when it is the expected text and the model
stopped. "Best guess" is the share of the most frequent answer (one of the two colours for larger).

{accuracies}

## Horizon

Accuracy in percent when all visual tokens are dropped before a decoder layer (the first is 0); keys and values of
earlier layers stay. {ablation_count} held-out questions of each kind.

{horizon}

## Random part

Accuracy in percent when a random part of the visual tokens enters the first decoder layer (positions kept).

{random}

## Training

Seed {seed} for weights, pictures and questions. No stage compresses, drops or merges anything. {note}

{stages}

## What it cannot do

{limits}

## Commands

```
{evaluate}
{card}
```
"""  # noqa: E501


def percent(entry: dict) -> str:
    """Return `98.1 (97.4 to 98.6)`."""
    return f"{100 * entry['accuracy']:.1f} ({100 * entry['low']:.1f} to {100 * entry['high']:.1f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def accuracies(result: dict) -> str:
    """Return the table of accuracy by kind: held out, harder, blank, chance."""
    splits, blank = result["accuracy"], result["blank"]
    rows = []
    for kind in (*KINDS, "several_hops", "mean"):
        row = [kind.replace("_", " "), *(percent(splits[s][kind]) for s in ("heldout", "harder")), percent(blank[kind])]
        rows.append([*row, f"{100 * blank[kind]['chance']:.1f}" if kind in KINDS else ""])
    return table(["kind", "held out", "harder", "blank picture", "best guess"], rows)


def horizon(result: dict) -> str:
    """Return the table of accuracy by kind when all visual tokens are dropped before each layer."""
    drops = [name for name in result["ablations"] if name.startswith("drop_before_")]
    rows = []
    for kind in (*KINDS, "chains", "several_hops", "mean"):
        values = [mean_of(result, name, kind) for name in (*drops, "none")]
        rows.append([kind.replace("_", " "), *(f"{100 * v:.1f}" for v in values)])
    return table(["kind", *(f"before {name.rpartition('_')[2]}" for name in drops), "never"], rows)


def mean_of(result: dict, setting: str, kind: str) -> float:
    """Return the accuracy of a kind in an ablation; `chains` is the mean over the kinds of dependent lookups."""
    entries = result["ablations"][setting]
    if kind == "chains":
        return sum(entries[k]["accuracy"] for k in CHAINS) / len(CHAINS)
    return entries[kind]["accuracy"]


def random_part(result: dict) -> str:
    """Return the table of accuracy by kind when a random part of the visual tokens enters the decoder."""
    draws = [name for name in result["ablations"] if name.startswith("random_")]
    rows = []
    for kind in (*KINDS, "chains", "several_hops", "mean"):
        values = [mean_of(result, name, kind) for name in draws]
        cells = [mean_of(result, "none", kind), *values, sum(values) / len(values)]
        rows.append([kind.replace("_", " "), *(f"{100 * v:.1f}" for v in cells)])
    names = [f"{100 * float(n.split('_')[1]):.0f} %, seed {n[-1]}" for n in draws]
    return table(["kind", "all tokens", *names, "mean"], rows)


def bars(result: dict) -> str:
    """Return what the instrument had to show, and what it shows."""
    held, depth = result["accuracy"]["heldout"], sum(n.startswith("drop_") for n in result["ablations"])
    worst = min(KINDS, key=lambda k: held[k]["accuracy"])
    draws = [name for name in result["ablations"] if name.startswith("random_")]
    full = {k: mean_of(result, "none", k) for k in ("chains", "several_hops", "mean")}
    lost = {k: 100 * (full[k] - sum(mean_of(result, d, k) for d in draws) / len(draws)) for k in full}
    over = [k for k in KINDS if result["blank"][k]["low"] > result["blank"][k]["chance"]]

    def cost(layer: int, kind: str) -> str:
        return f"{100 * (full[kind] - mean_of(result, f'drop_before_{layer}', kind)):.1f}"

    third, two_thirds = -(-depth // 3), -(-2 * depth // 3)
    rows = [
        ["mean accuracy, held out", "90", percent(held["mean"])],
        [f"worst kind, held out ({worst.replace('_', ' ')})", "80", percent(held[worst])],
        ["kinds at 95 or more, held out", "all", f"{sum(held[k]['accuracy'] >= 0.95 for k in KINDS)} of {len(KINDS)}"],
        ["kinds above the best guess on blank pictures", "none", ", ".join(over) or "none"],
        [f"points lost, all dropped before layer {third}: several hops / chains", "20",
         f"{cost(third, 'several_hops')} / {cost(third, 'chains')}"],
        [f"points lost, all dropped before layer {two_thirds}: several hops / chains", "5",
         f"{cost(two_thirds, 'several_hops')} / {cost(two_thirds, 'chains')}"],
        ["points lost, random part kept: all kinds / several hops", "15",
         f"{lost['mean']:.1f} / {lost['several_hops']:.1f}"],
    ]  # fmt: skip
    return table(["what", "bar", "figure"], rows)


def write(result: dict, recipe: dict) -> str:
    """Return the card."""
    stages = table(
        ["stage", "steps", "pictures a step", "questions a picture", "rate", "minutes", "command"],
        [[str(s[k]) for k in ("stage", "steps", "batch", "questions", "rate", "minutes")] + [f"`{s['command']}`"]
         for s in recipe["stages"]],
    )  # fmt: skip
    return TEMPLATE.format(
        millions=f"{recipe['parameters'] / 1e6:.1f}",
        digest=result["weights_sha256"],
        height=HEIGHT,
        width=WIDTH,
        rows=ROWS,
        columns=COLUMNS,
        grid=f"{GRID[0]} x {GRID[1]} = {GRID[0] * GRID[1]}",
        fonts=len(FONTS["train"]),
        smallest=SIZES["train"][0],
        largest=SIZES["train"][-1],
        hard_fonts=", ".join(FONTS["harder"]),
        hard_sizes=", ".join(map(str, SIZES["harder"])),
        chains=", ".join(k.replace("_", " ") for k in CHAINS),
        count=result["count"],
        ablation_count=result["ablation_count"],
        bars=bars(result),
        accuracies=accuracies(result),
        horizon=horizon(result),
        random=random_part(result),
        stages=stages,
        **{k: recipe[k] for k in ("shape", "seed", "note", "limits", "evaluate", "card")},
    )


def main() -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path, help="JSON written by glyph_vqa.evaluate")
    parser.add_argument("--recipe", type=Path, required=True, help="JSON with how the model was trained")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    args = parser.parse_args()
    args.out.write_text(write(json.loads(args.evaluation.read_text()), json.loads(args.recipe.read_text())))


if __name__ == "__main__":
    main()
