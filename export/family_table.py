"""The tables of families in docs/families.md and README.md, written from the families themselves.

``python -m luvc_export.export.family_table`` rewrites both; a test compares them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.errors import MachineError, UsageError
from luvc_export.export import families
from luvc_export.export.families.base import Family
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT
from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT

HEAD = """# Families

Written by `python -m luvc_export.export.family_table` from `export/families`; do not edit.

For every family below, tests in `tests/export/families` show, with tiny random weights against transformers:

- equal vision embeddings, logits and 32 greedy tokens with plan `none`, for prompts of no, one and two pictures;
- a chat with a system prompt and no, one or two pictures: the same token ids as transformers' processor makes, the same
  32 tokens as `generate`; a second turn that keeps the pictures of the first in the caches;
- tiles and videos where the table has them: the same ids and tokens as transformers;
- ONNX graphs of a plan that does what the default one does (its score; one merge on both axes in the encoder, one prune
  and the drop of all in the LLM) that keep the same tokens and give the same logits as the torch modules: with
  pictures, with text alone, and for a decode step;
- rows of a padded batch equal to rows alone;
- a saved checkpoint found tensor by tensor under the names of its repository.

Real weights are not part of these tests.

| `model_type` | transformers class | unit | picture size | encoder | place in the LLM | text model | not there |
|---|---|---|---|---|---|---|---|
"""

VERBS = """
## What was run

Written by `python benchmarks/measure/matrix/families.py FOLDER`, which gives small checkpoints of random weights, with
the settings, tokenizer and chat template of their family, to the command line; no cell is written by hand. Pictures are
padded. `parity hf` is the bundle's plan `none` against transformers through ONNX Runtime: the largest relative L2 of
any tensor (1e-4 is the limit), 24 greedy tokens being equal. `parity torch` is the bundle's `even` against the
compressed torch modules. `tiles`, `video` and `joint` are export, run, both parities, calibrate and `plan --data`
with those; for `joint` transformers' side is judged by retention alone, and where a family has no videos, tiles share
the budget, which no search has. `build rtx` is an engine of TensorRT-RTX, built without a GPU.
Weights being random, either verdict of a search on the held-out part counts. An empty cell: the family has none of it.

"""
#: Columns of that table.
CELLS = (
    "export",
    "run",
    "parity hf",
    "parity torch",
    "calibrate",
    "plan --data",
    "tiles",
    "video",
    "joint",
    "build rtx",
)
MEASURED = Path(__file__).resolve().parents[1] / "docs" / "results" / "families.json"

FEATURES = """
## Plans, by what they are asked for

Written by `python benchmarks/measure/matrix/feature_matrix.py FOLDER`: tiny models of random weights, one plan for
each choice. Twelve comparisons a cell: first answers about padded and whole pictures (or videos, or tiles), a second
turn read from the caches, a batch with a row of text alone, and text alone; each on torch, ONNX Runtime and OpenVINO,
with torch's answers to whole chats one by one (a second turn of a score that reads the question is from torch's caches:
see several turns). Equal are tokens, kept sets and visual tokens; the figure is the
largest difference of a log probability. Choices that are not in a column were not run for that family.

"""
PLANS = Path(__file__).resolve().parents[1] / "docs" / "results" / "feature-matrix.json"

PICTURES = """
## Pictures and turns, by family

Written by `python benchmarks/measure/matrix/picture_matrix.py FOLDER`: tiny models of random weights, on ONNX Runtime
and OpenVINO. Equal are ids and 24 greedy tokens with `generate` of transformers for plan `none`; and tokens, log
probabilities of the 20 likeliest, kept sets and visual tokens with the torch modules for `none` and for a plan that
prunes. Files are opened by us, and transformers is given the canvas made of them: of the two where `load_image` leads
to another one, `RGBA` has its transparent parts on white here and loses its alpha there, and `16-bit` is divided by
257 here and cut off at 255 there. `serve` and `batch` answer as a session does. Ids are not
compared where a processor cuts pictures that a bundle without `--tiles` does not: LLaVA-NeXT's all, LLaVA-OneVision's
only one of a prompt; nor PaliGemma's of text alone, whose processor takes no prompt without a picture.

"""
SHOWN = Path(__file__).resolve().parents[1] / "docs" / "results" / "picture-matrix.json"

TAIL = """
`python tests/export/families/family_odd.py` compares two odd-shaped checkpoints of every family (other head sizes,
vocabularies and depths, in shards, tied) with transformers, in torch, ONNX Runtime and OpenVINO, on padded, cropped and
stretched pictures ([figures](results/odd.md)).

## Pictures

A bundle has one or more image sizes (`--image-size`, repeated). Towers with learned positions have one size; where
their processor cuts pictures into tiles, `--tiles RxC` (repeated) says into which, and each tile is an image with a
budget of its own. Without `--tiles` every picture is one image, also where transformers would cut it: give its
processor the matching option (`do_image_splitting=False`, `crop_to_patches=False`) to compare. Without splitting the
processors of Idefics3 and SmolVLM scale a picture to `size.longest_edge` and then stretch it to the square of
`max_image_size.longest_edge`: `--fit stretch` is that but for one resampling in place of two, the default `--fit pad`
keeps the picture's shape. LLaVA-OneVision's processor always cuts the only picture of a prompt, while several pictures
are one image each; a bundle without `--tiles` takes the only picture as one image too, and writes fewer ids than it,
and `--tiles` with the grids of its `image_grid_pinpoints` cuts as it does.

Of several sizes, the runtime takes the one that shows most of the picture and wastes least. Of several grids it takes
the one that the family's processor would: the best resolution (LLaVA-OneVision), the closest aspect ratio (InternVL;
LFM2-VL for large pictures), or as many tiles along the longest edge as there are (Idefics3, SmolVLM); `prompt.tiling`
in `luvc.json` names the rule. A processor knows more grids than a bundle may have been exported with: where its grid is
missing, the nearest by the same rule (for the longest edge: by the best resolution) stands in. LLaVA-OneVision crops
the margins of padded tiles away after its encoder; here they stay, as budgets are fixed. The two are equal for pictures
that have the shape of the grid.

Rows that have left the window of a sliding layer (Gemma 3 and 4) leave its cache between calls, an eighth of a window
at a time, on ONNX Runtime and OpenVINO on the CPU; `plan` counts what stands. Engines keep them until the conversation
ends ([how](algorithm.md#states-beside-the-caches), [what it saves](results/windows.md)).

LFM2-VL's processor leaves pictures of up to two tiles' pixels whole and cuts larger ones, by the closest aspect ratio
of two to ten tiles of 512 pixels (`--image-size 512x512 --tiles 1x1 --tiles 2x2 ...`). Beside the tiles it shows the
picture in a size of its own, at most 256 tokens in the picture's shape; here that image is as large as a tile, padded
or stretched as `--fit` says. The two are equal for square pictures. A checkpoint whose processor cuts by other settings
(no thumbnail, another `min_tiles`, `max_image_tokens` or `max_pixels_tolerance`) is exported without tiles alone.

Gemma 4 was trained with five budgets of visual tokens. `--image-tokens auto` makes a size for each, near square, in one
bundle on one weights file; `280@16:9` is the grid that its processor makes of pictures of that shape (tested against
transformers for all five). A picture of another shape is padded to the grid that shows most of it, and what is padding
alone is told to the graphs, where the processor would make a grid of its own. `--image-tokens N` when running, and
`mm_processor_kwargs.max_soft_tokens` of a request, are the ceiling. Where a checkpoint of 16 bits is exported in fp32,
rows of the table of every layer's embeddings are widened when they are looked up, inside the graph, and the table stays
a mapped file (`python benchmarks/measure/kernels/lookup_table.py`, [figures](results/lookup-table.json): the graph
looks up a prompt's rows sooner than the host does).

## Videos

`--video` gives images as many frames as the family's temporal patches have, which is one where it has none; a picture
fills all of them.
`run --video` and `Session.generate(video=...)` take a film (mp4, mov, mkv, webm, avi, ts, mpg, ogv, flv; with
`luvc-export[video]`, which brings PyAV and its FFmpeg), a folder of frames, or an animated GIF, WebP or PNG, and of it
frames evenly in time (`luvc_export.runtime.media.video.open_video`); or frames, `video=[frame, ...], fps=2`. Each frame
of a film is the one shown at its time, upright, whatever the rate; reading seeks to it. When frames were shown reaches
the models that use it: Qwen2.5-VL's seconds from one pair to the next, the time stamps of Qwen3-VL and SmolVLM. How
films are kept from doing harm: [security](security.md).

What is written around frames is what transformers' processor writes: InternVL's number of each, SmolVLM's count, length
and times, and for chats with a video the template that its processor takes in place of the checkpoint's. Frames are
fitted as pictures are (`--fit stretch` is what these two processors do), and a template that puts a message's pictures
before its videos refuses a message that has them the other way round.

LLaVA-OneVision pools frames, to 14x14 units of 27x27, and not pictures. So its clips have plans and vision graphs of
their own (`--joint-frames N`, which then makes `none@video` too), in which nothing merges or leaves before the
pooling; questions that show pictures beside videos, videos without such a plan, and searches for one are refused.

Each image, a frame or a pair of them, has a budget of its own. `--joint-frames N` adds a plan `NAME@video` in which N
frames share one budget: the best tokens of the whole video stay, wherever in time they are, and their number is as
fixed as before. Scores are those of single images until the first prune; later prunes filter all that is left as one
line (a reconstruction). A question whose media are videos alone goes to that plan by itself, each video brought to N
frames, evenly taken or repeated; pictures go to the other. Both use one vision graph and one weights file. Parity and
calibration take such a plan by its name, with cases that show videos; `plan --data --joint-frames N` searches one.
`--joint-tiles RxC` does the same for the tiles of a picture and the whole beside them, `NAME@tiles`; no search has it.

Where a process has asked several sizes or both plans, each has its decoder open, and ONNX Runtime packs the weights of
each on its own: memory grows with every one that was used, while the file is there once.

## Reduced vocabularies

`export --vocab FILE` gives the head rows for the tokens that a list (JSON) names or a text is made of, `--vocab N
--data CASES.jsonl` for N: those of answers, then of prompts, then the lowest ids. Special tokens, and tokens of one
letter or byte, are always among them, so that any text can be written. Prompts are read with all tokens. Logits keep
their width and ids; tokens without a row get -10,000, in the graph, so greedy tokens chosen on a device and grammars,
biases and log probabilities on the host need no map. `inspect`, `doctor BUNDLE`, `Session.notes` (`run` prints them)
and `luvc.json`'s `vocabulary` say what is left; parity compares logits of the tokens that both heads have. [What it
costs and gives](results/vocabulary.md).

## Several questions at once

`Session.generate_batch([{"image": ..., "prompt": ...}, ...])` answers rows that differ in text and pictures; each gets
the answer it would get alone. Rows with equally many images of one size share a call, the others follow one another.
An ended row runs on until the last one ends. ONNX Runtime takes any number of rows, the TensorRT back-end one at a
time.

## Several turns

`Session.generate(messages=..., after=answer)` runs only what a chat has more than at `answer`; pictures stay pruned as
they were. Scores of the spectrum (`low`, `residual`, ...) look at a picture and at what stands before it. With the
pictures first the kept set does not depend on any question; with text before them it depends on that text. Baselines
that read the attention of the last row depend on the first question, and later questions meet what it left.
"""

#: Between these the README holds a table of the families.
MARKS = ("<!-- families -->\n", "<!-- end of families -->\n")


def table() -> str:
    """docs/families.md."""
    rows = (line(name) for name in families.built_in())
    chosen, shown = (json.loads(path.read_text(encoding="utf-8")) for path in (PLANS, SHOWN))
    return HEAD + "".join(rows) + VERBS + verbs() + PICTURES + pictures(shown) + FEATURES + plans(chosen) + TAIL


def line(name: str) -> str:
    """A family's row; where what its model is made of is not installed here, the one that stands in the page."""
    try:
        return f"| {' | '.join(row(families.find(name, 'docs')))} |\n"
    except MachineError:
        written = (MEASURED.parents[1] / "families.md").read_text(encoding="utf-8").splitlines()
        standing = [each for each in written if each.startswith(f"| `{name}` | `")]
        if not standing:
            raise
        return standing[0] + "\n"


def pictures(records: list[dict[str, Any]]) -> str:
    """What ``picture_matrix.py`` found."""
    cells = [cell for cell in records[0] if cell not in ("family", "opened otherwise")]
    lines = [f"| family | {' | '.join(cells)} |", "|" + "---|" * (len(cells) + 1)]
    lines += [f"| `{record['family']}` | {' | '.join(record.get(cell, '') for cell in cells)} |" for record in records]
    return "\n".join(lines) + "\n"


def plans(records: list[dict[str, Any]]) -> str:
    """What ``feature_matrix.py`` found, and why it was refused what it was."""
    named, choices = (list(dict.fromkeys(record[key] for record in records)) for key in ("family", "feature"))
    cells = {(record["family"], record["feature"]): record for record in records}
    reasons: dict[str, int] = {}

    def cell(record: dict[str, Any] | None) -> str:
        if record is None:
            return ""
        why = [" ".join(reason.split()) for reason in record.get("refused", {}).values()]
        numbers = sorted({reasons.setdefault(reason, len(reasons) + 1) for reason in why})
        parts = [f"{record['equal']} equal, {record['worst']:.0e}"] if record.get("equal") else []
        parts += [f"refused ({', '.join(map(str, numbers))})"] if numbers else []
        return "; ".join(parts + ["**differs**"] * ("differs" in record))

    lines = [f"| choice | {' | '.join(f'`{name}`' for name in named)} |", "|" + "---|" * (len(named) + 1)]
    lines += [f"| {choice} | {' | '.join(cell(cells.get((name, choice))) for name in named)} |" for choice in choices]
    notes = [f"\n{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(lines) + "\n" + "".join(notes) + ("\n" if notes else "")


def verbs() -> str:
    """What ``benchmarks/measure/matrix/families.py`` found."""
    data = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [f"| family | {' | '.join(CELLS)} |", "|" + "---|" * (len(CELLS) + 1)]
    for name, cells in data.items():
        failed = [f" {key}: {value}" for key, value in cells.items() if key not in CELLS]
        lines.append(f"| `{name}`{'; '.join(failed)} | {' | '.join(cells.get(cell, '') for cell in CELLS)} |")
    return "\n".join(lines) + "\n"


def short_table() -> str:
    """The README's table: what a picture may be in each family."""
    lines = ["| family | image sizes | tiles | video |", "|---|---|---|---|"]
    for name in families.built_in():
        family = families.find(name, "docs")
        config = family.tiny_config()
        size = "the tower's" if family.image_size(config) else "any, several in a bundle"
        lines.append(
            f"| `{name}` | {size} | {'yes' if cuts(family) else ''} | {'yes' if family.video(config) else ''} |"
        )
    return "\n".join(lines) + "\n"


def cuts(family: Family) -> bool:
    """Whether the family cuts pictures into tiles."""
    try:
        return bool(family.cuts(family.tiny_config(), [(1, 2)]))
    except UsageError:
        return False


def within(text: str) -> str:
    """``text`` with the short table between its marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return before + MARKS[0] + short_table() + MARKS[1] + after


def row(family: Family) -> list[str]:
    """One row: what the family's own tiny configuration and modules say."""
    config = family.tiny_config()
    with torch.device("meta"):
        model: Any = family.build(config)
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    size, unit = family.image_size(config), family.unit_pixels(config)
    grid = (size[0] // unit, size[1] // unit) if size else (4, 4)
    plan = solve(PlanRequest(LlmRequest("none")), grid, llm, encoder)
    decoder = family.decoder(model, plan)
    pixels = torch.nn.Identity()
    vision = family.vision(model, plan, pixels)  # type: ignore[arg-type]
    traits = ["windows and full attention" if encoder.window else "full attention"]
    traits = traits if encoder.blocks else ["convolutions: no merge and no prune inside"]
    traits += ["rotary positions"] * isinstance(vision, RotaryPositionViT)
    if isinstance(vision, LearnedPositionViT):
        traits += ["rotary positions"] * hasattr(vision, "rope")
        traits += ["learned positions"] + ["class token set aside"] * (vision.class_token() is not None)
    elif vars(type(vision)).get("learned_positions"):
        traits.append("learned positions, interpolated")
    if decoder.planes:
        traits.append("DeepStack planes")
    place = ["(t, h, w)" if family.position_kind == "mrope" else "one after another"]
    if family.prefix(config):
        place.append("the whole prompt seen both ways")
    elif decoder.shared_order:
        place.append("seen both ways")
    elif any(decoder.kind(layer).both_ways for layer in decoder.layers):
        place.append("seen both ways in sliding layers")
    text = config.get_text_config().model_type
    return [
        ", ".join([f"`{family.model_type}`", *family.also]),
        f"`{type(model).__name__}`",
        "one patch" if encoder.unit == 1 else "square group of patches",
        "the tower's own" if size else "any multiple of the unit",
        ", ".join(traits),
        ", ".join(place),
        ", ".join(f"`{name}`" for name in (family.text_models if text in family.text_models else (text,))),
        "; ".join(family.limits),
    ]


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    (root / "docs" / "families.md").write_text(table(), encoding="utf-8")
    readme = root / "README.md"
    readme.write_text(within(readme.read_text(encoding="utf-8")), encoding="utf-8")
