"""Stages `hop` and `read`: the LLM learns to answer, first from ideal visual embeddings, then from the encoder's.

Aids as in glyph_vqa, in training alone: a reader of the mark or entry that each word leads to, of what a step word is
about to look for, and the attention of two heads to it in the layers `LOOKUP_LAYERS` (so the horizon is where training
put it).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from glyph_vqa.decoder import Prefix, decode
from glyph_vqa.pack import shared_prefix
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from glyph_deep.data.labels import FIELDS, HIDDEN, NAMES_OF_FIELDS, Seen, codebook, symbols
from glyph_deep.data.packing import Packed, Packer
from glyph_deep.data.page import FORMATS, Page
from glyph_deep.data.questions import PAGE, Asked, of_picture
from luvc_export.demo.questions import ask
from luvc_export.demo.scene import GRID, Scene

from .curriculum import Curriculum
from .encoder import encode
from .see import draw

LOOKUP_LAYERS = {0: 1, 1: 4, 2: 6}  # where a word looks that has as many lookups before its own
ANSWER_LAYER = 7  # where the answer is taken from the last word that looked
GUIDED = (0, 3)  # attention heads, one of each group that shares keys and values
TRAIL_WEIGHT, GUIDE_WEIGHT = 0.5, 0.6


class Hop:
    """Questions about ideal visual embeddings with noise on them."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        self.model, self.args, self.codes = model, args, codebook()
        self.packer, self.curriculum = Packer(tokenizer, NAMES_OF_FIELDS), Curriculum()
        torch.manual_seed(args.seed)
        self.head = nn.Linear(HIDDEN, sum(FIELDS.values()))  # what a word leads to, read off its final state
        self.key = nn.Linear(HIDDEN, sum(FIELDS.values()))  # what it is about to look for

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the LLM's parameters and those of the readers by name."""
        heads = [p for name in ("head", "key") for p in getattr(self, name).named_parameters(name)]
        return [*self.model.model.language_model.named_parameters(), *heads]

    def look(self, images: np.ndarray, labels: Tensor, step: int) -> Tensor:
        """Return visual embeddings [B, units, 192] of pictures whose units have labels [B, units, fields]."""
        rng = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
        return noisy(labels, self.codes, rng)

    def forms(self, step: int) -> Iterator[tuple[tuple[int, int], int, Tensor, list[Seen], list[list[Asked]]]]:
        """Yield (grid, pictures a row, visual embeddings, what each row shows, questions) of the step."""
        rng, mix = np.random.default_rng([self.args.seed, step, 5]), self.args.mix
        for grounds in (("plain", "textured"), *((name,) for name in FORMATS)):
            drawings = [draw(g, self.args.seed, step * mix[g] + i) for g in grounds for i in range(mix.get(g, 0))]
            if not drawings:
                continue
            images, labels = (
                np.stack([m[0] for m in drawings]),
                torch.from_numpy(np.stack([m[2].labels for m in drawings])),
            )
            visual = self.look(images, labels, step)
            things, seen = [m[1] for m in drawings], [m[2] for m in drawings]
            grid = FORMATS.get(grounds[0], GRID)
            yield grid, 1, visual, seen, [self.ask_about(rng, thing) for thing in things]
            if grounds[0] == "plain" and len(drawings) > 1 and step % 2:
                pair = of_pair(rng, things[0], things[1], max(1, self.args.questions // 2))
                both = Seen(np.concatenate([seen[0].labels, seen[1].labels]), join(*seen[:2]),
                            np.concatenate([seen[0].table, seen[1].table]))  # fmt: skip
                yield grid, 2, visual[:2].flatten(0, 1)[None], [both], [pair]

    def ask_about(self, rng: np.random.Generator, thing: Scene | Page) -> list[Asked]:
        """Return as many questions as asked for about a picture or a page."""
        kinds, weights = self.curriculum.weights(isinstance(thing, Page))
        row: list[Asked] = []
        while len(row) < self.args.questions:
            kind = kinds[rng.choice(len(kinds), p=weights)]
            if isinstance(thing, Page):
                asked = PAGE[kind](rng, thing)
            else:
                question = ask(kind, rng, thing, thing)
                asked = question and of_picture(question, thing)
            if asked is not None:
                row.append(asked)
        return row

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and the accuracy of each kind of question."""
        text, right, loss = self.model.model.language_model, {}, torch.zeros(())
        guided: dict[str, list[float]] = {"knows": [], "looks": []}
        for grid, pictures, visual, seen, rows in self.forms(step):
            packed = self.packer.pack(rows)
            ids = self.packer.prefix_ids(grid[0] * grid[1], pictures)
            prefix = shared_prefix(text.embed_tokens, ids, self.model.config.image_token_id, visual, grid)
            watched = dict.fromkeys((*LOOKUP_LAYERS.values(), ANSWER_LAYER))
            hidden = decode(text, prefix, text.embed_tokens(packed.ids), watched=watched)
            wanted = packed.targets >= 0
            logits = self.model.lm_head(hidden[wanted]).float()
            part = cross_entropy(logits, packed.targets[wanted])
            aids = self.guide(packed, prefix, watched, seen, hidden)
            weight = len(rows) / sum(self.args.mix.values())
            loss = loss + weight * (part + TRAIL_WEIGHT * aids[0] + GUIDE_WEIGHT * (aids[1] + aids[2]))
            guided["knows"].append(aids[1].item())
            guided["looks"].append(aids[2].item())
            hit = torch.ones_like(wanted)
            hit[wanted] = logits.argmax(-1) == packed.targets[wanted]
            asked = (question for row in rows for question in row)
            for question, correct in zip(asked, hit.all(-1).flatten().tolist(), strict=True):
                right.setdefault(question.kind, []).append(correct)
        accuracy = {kind: sum(v) / len(v) for kind, v in right.items()}
        self.curriculum.learn(accuracy)
        return loss, {**{k: sum(v) / len(v) for k, v in guided.items()}, **accuracy}

    def guide(
        self, packed: Packed, prefix: Prefix, watched: dict, seen: list[Seen], hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return three losses: where words lead, whether they know what to look for, and whether they look."""
        size, sizes = packed.ids[0].numel(), list(FIELDS.values())
        row, token = packed.anchors // size, packed.anchors % size
        truth = torch.stack(
            [torch.from_numpy(seen[r].table[e]) for r, e in zip(row.tolist(), packed.entry.tolist(), strict=True)]
        )
        leads = self.head(hidden.flatten(0, 2)[packed.anchors]).float().split(sizes, -1)
        trail = sum(cross_entropy(p, truth[:, i], ignore_index=-1, reduction="sum") for i, p in enumerate(leads)) / (
            truth >= 0
        ).sum().clamp_min(1)
        owner = torch.from_numpy(np.stack([s.owner for s in seen]))
        knows, looks = [], []
        for hops, layer in LOOKUP_LAYERS.items():
            some = (packed.hops == hops).nonzero()[:, 0]
            if not len(some):
                continue
            state, attention = watched[layer]
            parts = self.key(state[row[some], token[some]]).float().split(sizes, -1)
            for i, part in enumerate(parts):
                chosen = packed.sought[some, i]
                if chosen.any():
                    knows.append(cross_entropy(part[chosen], truth[some][chosen, i], reduction="none"))
            there = owner[row[some]] == packed.entry[some][:, None]
            weights = attention[:, list(GUIDED)][row[some], :, token[some]][..., : len(prefix.visual)][
                ..., prefix.visual
            ]
            looks.append(missed((weights * there[:, None]).sum(-1)[there.any(-1)]))
        if len(packed.spoken):
            at = packed.last + len(prefix.visual)
            weights = watched[ANSWER_LAYER][1][:, list(GUIDED)][packed.spoken // size, :, packed.spoken % size]
            looks.append(missed(weights.gather(-1, at[:, None, None].expand(-1, len(GUIDED), 1))))
        none = torch.zeros(())
        return trail, *(torch.cat(x).mean() if x else none for x in (knows, looks))

    def state_dict(self) -> dict:
        """Return what a resumed run or a later stage needs."""
        heads = {name: getattr(self, name).state_dict() for name in ("head", "key")}
        return {"model": self.model.state_dict(), **heads, "ability": dict(self.curriculum.ability)}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`; a start from stage `see` has no readers and no abilities."""
        self.model.load_state_dict(state["model"])
        if "head" in state:
            for name in ("head", "key"):
                getattr(self, name).load_state_dict(state[name])
            self.curriculum.ability = dict(state["ability"])


class Read(Hop):
    """Questions about real pictures and pages through the encoder as stage `see` left it; only the LLM learns."""

    def look(self, images: np.ndarray, labels: Tensor, step: int) -> Tensor:
        """Return the encoder's visual embeddings."""
        with torch.no_grad():
            return encode(self.model.model.visual, images).float()


def missed(weights: Tensor) -> Tensor:
    """Return -log of attention weights, flat."""
    return -weights.clamp_min(1e-6).log().flatten()


def join(first: Seen, second: Seen) -> np.ndarray:
    """Return owners of two pictures side by side; the second's marks count on from the first's."""
    return np.concatenate([first.owner, np.where(second.owner < 0, -1, second.owner + len(first.table))])


def of_pair(rng: np.random.Generator, first: Scene, second: Scene, count: int) -> list[Asked]:
    """Return questions about two pictures."""
    return [of_picture(ask("two_pictures", rng, first, second), first, second) for _ in range(count)]


def noisy(labels: Tensor, codes: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Return symbols as an imperfect encoder would give them: some missed, some fields doubtful, noise on all."""
    shape = labels.shape[:-1]
    missing = torch.rand(shape, generator=rng) < 0.01
    labels = torch.where(missing[..., None], -1, labels)
    clean = symbols(labels, codes)
    for i, name in enumerate(NAMES_OF_FIELDS):
        doubt = torch.rand(shape, generator=rng) * 0.5
        doubt = torch.where((torch.rand(shape, generator=rng) < 0.04) & (labels[..., i] >= 0), doubt, 0.0)
        other = codes[name][torch.randint(len(codes[name]), shape, generator=rng)]
        clean = clean + doubt[..., None] * (other - codes[name][labels[..., i].clamp_min(0)])
    return clean + 0.03 * torch.randn(clean.shape, generator=rng)
