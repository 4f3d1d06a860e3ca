"""Write the model card: `python -m glyph_deep.studies.card evaluation.json --recipe recipe.json --out FILE`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from glyph_vqa.card import percent, table

from glyph_deep.data.cases import SIZES
from glyph_deep.data.grounds import LEAST_CONTRAST
from glyph_deep.data.page import FONTS, FORMATS, HEADS, KEYS
from glyph_deep.data.questions import KINDS, SEVERAL_HOPS
from glyph_deep.train.model import DEPTH, ENCODER_BLOCKS, FULL_ATTENTION, LAYERS, LLM_LAYERS

from .evaluate import ground_of

BARS = {"plain": 90.0, "textured": 85.0, "pages": 90.0}
LOST = 15.0  # points that kinds of several hops lose at least when the picture goes before a third of the LLM

TEMPLATE = """# Model card: glyph deep

A Qwen2.5-VL model of {millions} M parameters (float16) with {depth} encoder blocks and {layers} LLM layers, grown from the bundled
model. It is asked about coloured digits on pale and busy grounds and about pages of text, and exists to tell methods of
visual-token compression apart. Weights: sha256 `{digest}`.

{status}

Encoder: {depth} blocks of 128, 4 heads, full attention in blocks {full}, windows of 112 pixels in the others, patches of 14
pixels merged 2 x 2; the bundled encoder's four blocks became blocks {blocks}. LLM: {layers} layers of 192, 6 heads, 2 key-value
heads; the bundled six became layers {llm_layers}. All other blocks began as the identity (output projections of zero).
{shape}

## Data

- `plain`: the bundled task's pictures, 252 x 336 pixels, 108 visual tokens.
- `textured`: the same digits on 1/f noise, stripes, checks, steep gradients, blobs of the digits' own colours, strokes and
  letters, of a strength drawn evenly from 0.2 to 1; where the ground under a digit comes nearer its colour than {contrast:.0f} (of
  442, in RGB) on average, it is moved away.
- `pages`: {page_size} pixels, {page_rows} numbered lines, {page_tokens} visual tokens; blocks of a table, a list and a form with {keys} keys,
  {heads} heads of columns, references to other keys, figures of two digits, {fonts} fonts at 14 to 19 pixels. {ink} of the pixels
  have ink. One line stands in each row of units, its baseline up to 2 pixels off. `wide` has prose beside it and {wide_tokens} tokens.

What stands where in a picture or page decides by its hash whether it is one of train (6 in 8), search or held-out (1 in
8 each); seeds differ too. Kinds about pages: by key (figure of key, cell, line of key), by place (figure at line, key at line,
cell), in two steps (above below, follow: the line that a line refers to) and in three.

## What it shows

{bars}

Accuracy in percent with 95 % intervals clustered by picture; {pictures} held-out pictures a split, each asked one question of each
kind it allows. An answer is right when each of its tokens, the end included, has the highest logit after the right ones
before it, as greedy decoding has it. "Best guess" is the share of the most frequent answer (one of the two colours for larger).

{accuracies}

## Horizon in the LLM

Accuracy in percent when all visual tokens are dropped before an LLM layer (the first is 0); keys and values of earlier
layers stay. {horizon_pictures} pictures a split.

{llm_table}

## Horizon in the encoder

Accuracy in percent, by the encoder block after which something happens to the units ({horizon_pictures} pictures a split). "Leave": all
units but those that show a digit or a figure leave, told by the truth, not by a score; nothing attends to them in later
blocks, and the LLM gets empty units in their place. "Pairs": of every two neighbours in a row both go on with their mean.

{encoder}

## Training

{note}

{stages}

## What it cannot do

{limits}

## Commands

```
{commands}
```

The evaluation took {minutes} minutes on the machine named above.
"""  # noqa: E501


def bars(result: dict) -> str:
    """Return what the instrument had to show, and what it shows."""
    rows = []
    for split, bar in BARS.items():
        mean = result["accuracy"][split]["mean"]
        rows.append([f"mean accuracy, {split}", f">= {bar:.0f}", percent(mean), yes(100 * mean["accuracy"] >= bar)])
    third = -(-LAYERS // 3)
    for split in result["llm_horizon"]:
        lost = lost_at(result, split, third)
        rows.append([f"points several-hop kinds lose, {split}, before layer {third} of {LAYERS}", f">= {LOST:.0f}",
                     f"{lost:.1f}", yes(lost >= LOST)])  # fmt: skip
    over = [
        f"{s}: {k}" for s in BARS for k in KINDS[s] if result["blank"][s][k]["low"] > result["blank"][s][k]["chance"]
    ]
    rows.append(["kinds above the best guess on blank pictures", "none", ", ".join(over) or "none", yes(not over)])
    return table(["what", "bar", "figure", "met"], rows)


def yes(met: bool) -> str:
    """Return yes or no."""
    return "yes" if met else "no"


def lost_at(result: dict, split: str, layer: int) -> float:
    """Return the points that kinds of several hops lose when the visual tokens go before a layer."""
    horizon = result["llm_horizon"][split]
    return 100 * (horizon["never"]["several_hops"]["accuracy"] - horizon[str(layer)]["several_hops"]["accuracy"])


def accuracies(result: dict) -> str:
    """Return the tables of accuracy by kind."""
    parts = []
    for split, by_kind in result["accuracy"].items():
        blank, rows = result["blank"].get(split), []
        for kind in (*KINDS[ground_of(split)], "several_hops", "mean"):
            if kind in by_kind:
                row = [kind.replace("_", " "), percent(by_kind[kind])]
                if blank:
                    row += [
                        percent(blank[kind]),
                        f"{100 * blank[kind]['chance']:.1f}" if "chance" in blank[kind] else "",
                    ]
                rows.append(row)
        parts.append(table([split, "held out", *(["blank picture", "best guess"] if blank else [])], rows))
    return "\n\n".join(parts)


def llm(result: dict) -> str:
    """Return the table of accuracy when all visual tokens are dropped before each LLM layer."""
    rows = []
    for split, horizon in result["llm_horizon"].items():
        for kind in ("mean", "several_hops", *SEVERAL_HOPS[split]):
            values = [f"{100 * entry[kind]['accuracy']:.1f}" for entry in horizon.values()]
            rows.append([f"{split}, {kind.replace('_', ' ')}", *values])
    return table(["kind", *(f"before {name}" if name != "never" else name for name in horizon)], rows)


def encoder(result: dict) -> str:
    """Return the table of accuracy when units leave or are averaged after each block."""
    rows = []
    for split, horizon in result["encoder_horizon"].items():
        for way in ("leave", "pairs"):
            values = [f"{100 * horizon[f'{way}_{b}']['mean']['accuracy']:.1f}" for b in range(DEPTH)]
            rows.append([f"{split}, {way}", *values, f"{100 * horizon['nothing']['mean']['accuracy']:.1f}"])
    return table(["after block", *map(str, range(DEPTH)), "never"], rows)


def write(result: dict, recipe: dict) -> str:
    """Return the card."""
    keys = ("stage", "steps", "mix", "rate", "minutes", "command")
    stages = table(
        ["stage", "steps", "pictures a step", "rate", "minutes", "command"],
        [[str(s[k]) if k != "command" else f"`{s[k]}`" for k in keys] for s in recipe["stages"]],
    )
    page, wide = FORMATS["page"], FORMATS["wide"]
    return TEMPLATE.format(
        millions=f"{recipe['parameters'] / 1e6:.1f}",
        digest=result["weights_sha256"],
        depth=DEPTH,
        layers=LAYERS,
        full=listed(FULL_ATTENTION),
        blocks=listed(ENCODER_BLOCKS),
        llm_layers=listed(LLM_LAYERS),
        contrast=LEAST_CONTRAST,
        page_size=" x ".join(map(str, SIZES["pages"])),
        page_rows=page[0],
        page_tokens=page[0] * page[1],
        wide_tokens=wide[0] * wide[1],
        keys=len(KEYS),
        heads=len(HEADS),
        fonts=len(FONTS),
        bars=bars(result),
        pictures=result["pictures"],
        horizon_pictures=result["horizon_pictures"],
        accuracies=accuracies(result),
        llm_table=llm(result),
        encoder=encoder(result),
        stages=stages,
        minutes=result["minutes"],
        ink=f"{100 * result['ink_share'][0]:.1f} to {100 * result['ink_share'][1]:.1f} %",
        commands="\n".join(recipe["commands"]),
        **{k: recipe[k] for k in ("status", "shape", "note", "limits")},
    )


def listed(numbers: list[int] | tuple[int, ...]) -> str:
    """Return `3, 7 and 11`."""
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def main() -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path, help="JSON written by glyph_deep.studies.evaluate")
    parser.add_argument("--recipe", type=Path, required=True, help="JSON with how the model was trained")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    args = parser.parse_args()
    args.out.write_text(write(json.loads(args.evaluation.read_text()), json.loads(args.recipe.read_text())))


if __name__ == "__main__":
    main()
