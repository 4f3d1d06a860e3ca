"""What small weights keep: `python -m pretrained.evaluate runs/base small.safetensors --out evaluation.json`.

Perplexity of the texts held out over the base's, facts still answered, and answers by kind on held-out pictures.
Every piece is written when it is done, so that the command goes on where it was ended; `--minutes` ends it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glyph_vqa.intervals import interval
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from luvc_export.errors import UsageError

from .facts import BATCH, answered, facts
from .layers import Instrument
from .packing import GRID, Packer
from .questions import Case, cases
from .sight import Sight
from .start import begin, weights_of
from .texts import held_out

WINDOW, TOKENS = 512, 3072  # tokens that are read at once, and of a text
GROUNDS = ("plain", "textured", "photographs")
Piece = tuple[str, Callable[[], Any]]


class Evaluation:
    """The pieces of an evaluation, each with its name."""

    def __init__(self, base: Path, small: Path, pictures: int) -> None:
        self.tokenizer, self.pictures = Tokenizer.from_file(str(base / "tokenizer.json")), pictures
        weights = weights_of(small)
        self.model = Instrument(base, len(weights["a.0_qkv"])).requires_grad_(False)
        begin(self.model, small)
        self.sight, self.packer = Sight(base), Packer(self.tokenizer)

    def pieces(self) -> Iterator[Piece]:
        """Yield every piece, those that say most first: pictures and texts by turns."""
        yield from self.texts(0)
        yield from self.facts()
        for ground in GROUNDS:
            yield from self.answers(ground, range(8))
        yield from self.texts(1)
        for ground in GROUNDS:
            yield from self.answers(ground, range(8, self.pictures))

    def texts(self, begin: int) -> Iterator[Piece]:
        """Yield a window of each text, or all behind it: nats and tokens under the base and as trained."""
        for name, text in held_out().items():
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids[:TOKENS]
            for number in range(len(ids) // WINDOW)[begin : None if begin else 1]:
                window = torch.tensor([ids[number * WINDOW : (number + 1) * WINDOW]])
                yield f"text {name} {number}", lambda window=window: [self.nats(window, True), self.nats(window, False)]

    @torch.no_grad()
    def nats(self, ids: torch.Tensor, bare: bool) -> float:
        """Return the mean nats a token of ids [1, T], under the base with `bare`."""
        self.model.bare = bare
        logits = self.model.logits(self.model.read(ids))[0, :-1]
        self.model.bare = False
        return cross_entropy(logits, ids[0, 1:]).item()

    def facts(self) -> Iterator[Piece]:
        """Yield whether each of some facts is answered."""
        every = facts()
        for first in range(0, len(every), BATCH):
            some = every[first : first + BATCH]
            yield f"facts {first}", lambda some=some: answered(self.model, self.tokenizer, some)

    def answers(self, ground: str, numbers: range) -> Iterator[Piece]:
        """Yield the verdicts of each held-out picture: {kind: whether its question is answered}."""
        every = groupby(cases("heldout", ground, 1 << 40), lambda case: case.picture)
        for number, some in every:
            if number >= numbers.stop:
                return
            if number >= numbers.start:
                yield f"{ground} {number}", lambda some=list(some): self.verdicts(some)

    @torch.no_grad()
    def verdicts(self, some: list[Case]) -> dict[str, bool]:
        """Return of the questions about one picture whether each token of the answer is the first choice."""
        ids, targets = self.packer.pack([(case.prompt, case.answer) for case in some])
        hidden = self.model.answer(self.packer.head, self.sight(some[0].image[None]), GRID, ids[None])[0]
        wanted = targets >= 0
        hit = torch.ones_like(wanted)
        hit[wanted] = self.model.logits(hidden[wanted]).argmax(-1) == targets[wanted]
        return {case.kind: right for case, right in zip(some, hit.all(-1).tolist(), strict=True)}


def summary(pieces: dict[str, Any]) -> dict[str, Any]:
    """Return perplexities and their ratio by text, facts, and by ground accuracy with its interval and by kind."""
    result: dict[str, Any] = {"perplexity": {}, "facts": None, "answers": {}}
    for name in dict.fromkeys(key.split()[1] for key in pieces if key.startswith("text ")):
        windows = [value for key, value in pieces.items() if key.startswith(f"text {name} ")]
        base, own = np.mean(windows, 0)
        figures = {"base": math.exp(base), "trained": math.exp(own), "ratio": math.exp(own - base)}
        result["perplexity"][name] = {**{k: round(v, 3) for k, v in figures.items()}, "tokens": WINDOW * len(windows)}
    known = [right for key, value in pieces.items() if key.startswith("facts ") for right in value]
    result["facts"] = [sum(known), len(known)]
    for ground in GROUNDS:
        pictures = {key: value for key, value in pieces.items() if key.startswith(f"{ground} ")}
        if not pictures:
            continue
        flat = [(kind, key, right) for key, value in pictures.items() for kind, right in value.items()]
        kinds = {kind: [right for k, _, right in flat if k == kind] for kind in dict.fromkeys(k for k, _, _ in flat)}
        mean, low, high = interval([right for *_, right in flat], [int(key.split()[1]) for _, key, _ in flat])
        result["answers"][ground] = {
            "accuracy": [round(mean, 3), round(low, 3), round(high, 3)],
            "questions": len(flat),
            "kinds": {kind: round(float(np.mean(rights)), 3) for kind, rights in kinds.items()},
        }
    return result


def main() -> None:
    """Read the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder that `pretrained.base` wrote")
    parser.add_argument("small", type=Path, help="small weights (`pretrained.start`)")
    parser.add_argument("--out", type=Path, required=True, help="file of figures; run again to go on")
    parser.add_argument("--pictures", type=int, default=60, help="held-out pictures of each ground")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time")
    parser.add_argument("--device", default="cpu", help="where torch asks: cpu, cuda")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_device(args.device)
    end, digest = time.monotonic() + 60 * args.minutes, hashlib.sha256(args.small.read_bytes()).hexdigest()
    done = json.loads(args.out.read_text()) if args.out.exists() else {"small": digest, "pieces": {}}
    if done["small"] != digest:
        got, expected = f"sha256 {digest[:16]}", f"sha256 {done['small'][:16]}, whose figures {args.out} has"
        raise UsageError("other weights", where=str(args.small), got=got, expected=expected, fix="another --out")
    for name, work in Evaluation(args.base, args.small, args.pictures).pieces():
        if name in done["pieces"]:
            continue
        if time.monotonic() > end:
            break
        done["pieces"][name] = work()
        done["summary"] = summary(done["pieces"])
        args.out.with_suffix(".part").write_text(json.dumps(done) + "\n")
        args.out.with_suffix(".part").replace(args.out)
    print(json.dumps(done["summary"], indent=1))


if __name__ == "__main__":
    main()
