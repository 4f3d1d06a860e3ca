"""Measure a checkpoint: `python -m glyph_deep.studies.evaluate glyph_deep/checkpoint --out glyph_deep/evaluation.json`.

Accuracy of each kind of question with 95 % intervals clustered by picture; the same on pictures replaced by even grey;
the LLM's horizon (all visual tokens dropped before a layer) and the encoder's (units leave, or are averaged in pairs,
after a block). An answer is right when each of its tokens, the end included, has the highest logit after the right
ones before it: the verdict of greedy decoding, by passes that the tests hold equal to transformers'.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from glyph_vqa.ablate import rows_of
from glyph_vqa.answer import Asker
from glyph_vqa.decoder import decode
from glyph_vqa.intervals import chance, interval
from glyph_vqa.pack import shared_prefix
from torch import Tensor

from glyph_deep.data.cases import PAGES, SPLITS, cases
from glyph_deep.data.labels import NAMES_OF_FIELDS, codebook
from glyph_deep.data.packing import Packer
from glyph_deep.data.page import FORMATS, render
from glyph_deep.data.questions import KINDS, SEVERAL_HOPS, Asked
from glyph_deep.data.splits import generator
from glyph_deep.train.encoder import Change, encode
from glyph_deep.train.see import draw
from luvc_export.demo.questions import GlyphCase

HELD_OUT = ("plain", "textured", "pages")
CHUNK = 60  # pictures in memory at a time
Verdicts = list[tuple[str, int, str, bool]]


def ground_of(split: str) -> str:
    """Return which kinds a split asks: those of plain, textured or pages."""
    ground = SPLITS[split][1]
    return "pages" if ground in PAGES else ground


def by_kind(asked: Verdicts, split: str) -> dict:
    """Return {kind: accuracy, interval, count, chance} of (kind, picture, expected answer, right), and summaries."""
    groups: dict[str, Verdicts] = defaultdict(list)
    for entry in asked:
        groups[entry[0]].append(entry)
    table = {}
    kinds = KINDS[ground_of(split)]
    for kind in (k for k in kinds if k in groups):
        _, pictures, answers, right = zip(*groups[kind], strict=True)
        mean, low, high = interval(right, pictures)
        table[kind] = {"accuracy": mean, "low": low, "high": high, "count": len(right), "chance": chance(kind, answers)}
    for name, members in {"mean": kinds, "several_hops": SEVERAL_HOPS[ground_of(split)]}.items():
        some = [e for e in asked if e[0] in members]
        mean, low, high = interval([e[3] for e in some], [e[1] for e in some])
        table[name] = {"accuracy": mean, "low": low, "high": high, "count": len(some)}
    return table


def chunks(split: str, pictures: int, seed: int, blank: bool = False) -> Iterator[list[GlyphCase]]:
    """Yield the cases about `pictures` pictures, some at a time; `blank` replaces every picture by even grey."""
    chunk: list[GlyphCase] = []
    grey: np.ndarray | None = None  # one object, so that it is encoded once
    for case in cases(split, 1 << 40, seed):
        if case.picture >= pictures or (chunk and case.picture - chunk[0].picture >= CHUNK):
            yield chunk
            chunk = []
        if case.picture >= pictures:
            return
        if blank:
            grey = np.full_like(case.images[0], 128) if grey is None else grey
            case = GlyphCase((grey,) * len(case.images), case.prompt, case.answer, case.kind, case.picture)
        chunk.append(case)


def accuracy(asker: Asker, split: str, pictures: int, seed: int, blank: bool = False) -> dict:
    """Return the accuracy by kind."""
    asked: Verdicts = []
    for chunk in chunks(split, pictures, seed, blank):
        right = scores(asker, chunk, embedded(asker, chunk))
        asked += [(c.kind, c.picture, c.answer, r) for c, r in zip(chunk, right, strict=True)]
    return by_kind(asked, split)


@torch.no_grad()
def scores(
    asker: Asker,
    chunk: Sequence[GlyphCase],
    seen: dict[int, Tensor],
    drop_before: int | None = None,
) -> list[bool]:
    """Return whether each case is answered right: every token has the highest logit after the right ones before it.

    `seen` gives embeddings [units, D] by picture identity; `drop_before` removes all visual tokens before that LLM
    layer.
    """
    packer, text = Packer(asker.tokenizer.backend_tokenizer, NAMES_OF_FIELDS), asker.model.model.language_model
    right = [False] * len(chunk)
    for row in rows_of(list(chunk)):
        images = chunk[row[0]].images
        grid = (images[0].shape[0] // 28, images[0].shape[1] // 28)
        visual = [seen[id(image)] for image in images]
        packed = packer.pack([[Asked(chunk[i].kind, chunk[i].prompt, chunk[i].answer) for i in row]])
        ids = packer.prefix_ids(grid[0] * grid[1], len(images))
        prefix = shared_prefix(text.embed_tokens, ids, asker.image_token, torch.cat(visual)[None], grid)
        hidden = decode(text, prefix, text.embed_tokens(packed.ids), drop_before)
        verdict = (asker.model.lm_head(hidden).argmax(-1) == packed.targets) | (packed.targets < 0)
        for i, correct in zip(row, verdict.all(-1)[0].tolist(), strict=True):
            right[i] = correct
    return right


@torch.no_grad()
def embedded(
    asker: Asker, chunk: Sequence[GlyphCase], change: Callable[[np.ndarray], Change | None] = lambda images: None
) -> dict[int, Tensor]:
    """Return embeddings [units, D] by picture identity; `change` says what happens in the encoder.

    A unit that left becomes what empty units are taught to be: the LLM leans on those, and is not what is asked here.
    """
    images = list({id(image): image for case in chunk for image in case.images}.values())
    embeds: dict[int, Tensor] = {}
    for first in range(0, len(images), 12):
        some = np.stack(images[first : first + 12])
        changed = change(some)
        visual = encode(asker.model.model.visual, some, changed)
        if changed is not None and changed.stay is not None:
            visual = torch.where(changed.stay[..., None], visual, codebook()["none"])
        embeds |= {id(image): visual[i] for i, image in enumerate(images[first : first + 12])}
    return embeds


def llm_horizon(asker: Asker, split: str, pictures: int, seed: int) -> dict:
    """Return accuracy by kind when all visual tokens are dropped before each LLM layer, and never."""
    layers = [*range(asker.model.config.text_config.num_hidden_layers), None]
    asked: dict[int | None, Verdicts] = {layer: [] for layer in layers}
    for chunk in chunks(split, pictures, seed):
        seen = embedded(asker, chunk)
        for layer in layers:
            right = scores(asker, chunk, seen, layer)
            asked[layer] += [(c.kind, c.picture, c.answer, r) for c, r in zip(chunk, right, strict=True)]
    return {"never" if layer is None else str(layer): by_kind(entries, split) for layer, entries in asked.items()}


def shown_units(split: str, seed: int, pictures: int) -> dict[bytes, Tensor]:
    """Return which units show a digit or a figure [units], by the bytes of a picture that is asked about alone."""
    share, ground = SPLITS[split]
    form = {"pages": "page"}.get(ground, ground)
    units = {}
    for number in range(pictures):
        image, _, seen = draw(form, seed, number, share)
        units[image.tobytes()] = torch.from_numpy(seen.owner >= 0)
    return units


def encoder_horizon(asker: Asker, split: str, pictures: int, seed: int) -> dict:
    """Return accuracy when units leave or are averaged in pairs after each encoder block, and when nothing happens.

    Those that leave are all units but the ones that show a digit or a figure (the truth is asked, no score): where the
    curve is flat, the encoder has fetched what those need from elsewhere, and looks at the rest no more. The LLM gets
    empty units in their place, after every block alike. Kinds about two pictures are left out.
    """
    depth, shown = len(asker.model.model.visual.blocks), shown_units(split, seed, pictures)
    asked: dict[str, Verdicts] = defaultdict(list)
    for chunk in chunks(split, pictures, seed):
        single = [case for case in chunk if len(case.images) == 1]
        settings: dict[str, Callable[[np.ndarray], Change | None]] = {"nothing": lambda images: None}
        for after in range(depth):
            settings[f"leave_{after}"] = lambda images, b=after: Change(
                b, torch.stack([shown[i.tobytes()] for i in images])
            )
            settings[f"pairs_{after}"] = lambda images, b=after: Change(b, pairs=True)
        for name, change in settings.items():
            right = scores(asker, single, embedded(asker, single, change))
            asked[name] += [(c.kind, c.picture, c.answer, r) for c, r in zip(single, right, strict=True)]
    return {name: by_kind(entries, split) for name, entries in asked.items()}


def ink_share(pictures: int, seed: int) -> tuple[float, float]:
    """Return the least and the largest share of a held-out page's pixels that have ink."""
    form = list(FORMATS).index("page")
    shares = [
        render(generator("heldout", "pages", seed, form, number), "heldout", "page")[2].ink_share
        for number in range(pictures)
    ]
    return min(shares), max(shares)


def lines_of(result: dict) -> str:
    """Return the JSON with a line for every entry of the first two levels; the third has too many figures for lines."""
    parts = []
    for name, value in result.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(rounded(entry))}" for key, entry in value.items())
            parts.append(f" {json.dumps(name)}: {{\n{inner}\n }}")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def rounded(value: object) -> object:
    """Return figures with five decimals."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    """Read the command line, measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--pictures", type=int, default=200, help="pictures of a split, one question of a kind each")
    parser.add_argument("--horizon-pictures", type=int, default=40, help="pictures of a split for the horizons")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and questions")
    parser.add_argument("--splits", nargs="*", default=list(HELD_OUT), help="splits to answer")
    parser.add_argument("--horizons", nargs="*", default=list(HELD_OUT), help="splits to measure the horizons on")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    asker, begun = Asker(args.checkpoint), time.time()
    digest = hashlib.sha256((args.checkpoint / "model.safetensors").read_bytes()).hexdigest()
    result: dict = {"weights_sha256": digest, "seed": args.seed, "pictures": args.pictures,
                    "horizon_pictures": args.horizon_pictures}  # fmt: skip
    parts: dict[str, tuple[list[str], Callable[[str], dict]]] = {
        "accuracy": (args.splits, lambda s: accuracy(asker, s, args.pictures, args.seed)),
        "blank": (args.splits, lambda s: accuracy(asker, s, args.pictures, args.seed, blank=True)),
        "llm_horizon": (args.horizons, lambda s: llm_horizon(asker, s, args.horizon_pictures, args.seed)),
        "encoder_horizon": (args.horizons, lambda s: encoder_horizon(asker, s, args.horizon_pictures, args.seed)),
    }
    for part, (splits, measure) in parts.items():
        result[part] = {}
        for split in splits:
            result[part][split] = measure(split)
            print(
                f"{part} {split}: {time.time() - begun:.0f} s", json.dumps(result[part][split].get("mean")), flush=True
            )
    result["ink_share"] = ink_share(args.pictures, args.seed)
    result["accuracy"]["wide"] = accuracy(asker, "wide", max(1, args.pictures // 2), args.seed)
    result["minutes"] = round((time.time() - begun) / 60, 1)
    args.out.write_text(lines_of(result))


if __name__ == "__main__":
    main()
