"""Measure a checkpoint: `python -m glyph_vqa.evaluate CHECKPOINT --out X.json --blank --horizon --random 0.25`.

Always: accuracy of each kind of question on the held-out and the harder split, through transformers, greedy, with 95 %
intervals clustered by picture. An answer is right when it is the expected text, and the model then stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from luvc_export.core.files.json_file import dumps
from luvc_export.demo.questions import KINDS, SEVERAL_HOPS, GlyphCase, cases
from luvc_export.demo.scene import HEIGHT, WIDTH

from .ablate import scores
from .answer import Asker
from .intervals import chance, interval

CHUNK = 100  # pictures in memory at a time
RANDOM_SEEDS = (0, 1, 2)


def by_kind(asked: Sequence[tuple[str, int, str, bool]]) -> dict:
    """Return {kind: accuracy, interval, count, chance} of (kind, picture, expected answer, right), and summaries."""
    groups: dict[str, list[tuple[str, int, str, bool]]] = defaultdict(list)
    for entry in asked:
        groups[entry[0]].append(entry)
    table = {}
    for kind in (k for k in KINDS if k in groups):
        _, pictures, answers, right = zip(*groups[kind], strict=True)
        mean, low, high = interval(right, pictures)
        table[kind] = {"accuracy": mean, "low": low, "high": high, "count": len(right), "chance": chance(kind, answers)}
    for name, members in {"mean": KINDS, "several_hops": SEVERAL_HOPS}.items():
        some = [e for e in asked if e[0] in members]
        mean, low, high = interval([e[3] for e in some], [e[1] for e in some])
        table[name] = {"accuracy": mean, "low": low, "high": high, "count": len(some)}
    return table


def chunks(split: str, count: int, seed: int, blank: bool = False) -> list[list[GlyphCase]]:
    """Yield `count` cases of every kind, some pictures at a time; `blank` replaces every picture by even grey."""
    missing = dict.fromkeys(KINDS, count)
    chunk: list[GlyphCase] = []
    grey = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)  # one object, so that it is encoded once
    for case in cases(split, 1 << 40, seed):
        if missing[case.kind]:
            missing[case.kind] -= 1
            images = (grey,) * len(case.images) if blank else case.images
            chunk.append(GlyphCase(images, case.prompt, case.answer, case.kind, case.picture))
        done = not any(missing.values())
        if chunk and (done or case.picture - chunk[0].picture >= CHUNK):
            yield chunk
            chunk = []
        if done:
            return


def accuracy(asker: Asker, split: str, count: int, seed: int, blank: bool = False) -> dict:
    """Return the accuracy of greedy answers by kind."""
    asked = []
    for chunk in chunks(split, count, seed, blank):
        answers = asker.answers(chunk)
        asked += [(c.kind, c.picture, c.answer, a == c.answer) for c, a in zip(chunk, answers, strict=True)]
    return by_kind(asked)


def ablations(asker: Asker, count: int, seed: int, layers: bool, keep: float | None) -> dict:
    """Return accuracy by kind for every layer before which all visual tokens are dropped, and for a random part."""
    settings = {"none": {}}
    if layers:
        depth = asker.model.config.text_config.num_hidden_layers
        settings |= {f"drop_before_{layer}": {"drop_before": layer} for layer in range(depth)}
    if keep is not None:
        settings |= {f"random_{keep}_seed_{s}": {"keep": keep, "seed": s} for s in RANDOM_SEEDS}
    asked: dict[str, list] = {name: [] for name in settings}
    for chunk in chunks("heldout", count, seed):
        seen, _ = asker.embed(chunk)
        for name, options in settings.items():
            right = scores(asker, chunk, seen, **options)
            asked[name] += [(c.kind, c.picture, c.answer, r) for c, r in zip(chunk, right, strict=True)]
    return {name: by_kind(entries) for name, entries in asked.items()}


def main() -> None:
    """Read the command line, measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--count", type=int, default=2000, help="questions of each kind")
    parser.add_argument("--ablation-count", type=int, default=500, help="questions of each kind under an ablation")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and questions")
    parser.add_argument("--splits", nargs="*", default=["heldout", "harder"], help="splits to answer")
    parser.add_argument("--blank", action="store_true", help="also ask about pictures replaced by even grey")
    parser.add_argument("--horizon", action="store_true", help="also drop all visual tokens before each layer")
    parser.add_argument("--random", type=float, help="also keep only this random part of the visual tokens")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    asker = Asker(args.checkpoint)
    digest = hashlib.sha256((args.checkpoint / "model.safetensors").read_bytes()).hexdigest()
    result: dict = {
        "weights_sha256": digest,
        "count": args.count,
        "ablation_count": args.ablation_count,
        "seed": args.seed,
        "accuracy": {},
    }
    for split in args.splits:
        result["accuracy"][split] = accuracy(asker, split, args.count, args.seed)
        print(split, json.dumps(result["accuracy"][split]["mean"]), flush=True)
    if args.blank:
        result["blank"] = accuracy(asker, "heldout", args.count, args.seed, blank=True)
    if args.horizon or args.random is not None:
        result["ablations"] = ablations(asker, args.ablation_count, args.seed, args.horizon, args.random)
    args.out.write_text(dumps(result) + "\n")


if __name__ == "__main__":
    main()
