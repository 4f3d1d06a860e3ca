"""Train the model: `python -m glyph_clips.train --out runs/clips --steps 1500`.

The encoder stays as the bundled checkpoint has it: it reads these digits as they are. The LLM learns from the answers
and, in training alone, from what each visual token can know by its moment (a linear reader of its state before
layer 4).
The films are drawn from the seed and their numbers alone; a run that was killed goes on from its last checkpoint when
the same command is given. With `--units` a first run is cheaper: the LLM sees the tokens that show a digit, and some
of the others at random; a second run with all of them follows.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from glyph_vqa.decoder import decode
from glyph_vqa.model import export
from glyph_vqa.optimise import Optimiser
from glyph_vqa.pack import SUFFIX, aligned
from glyph_vqa.train import optimise
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .films import Film, seeded
from .model import LABELS, UNITS, embeddings, encode_width, grow, labels, load, prefix
from .questions import Question, questions
from .tokenizer import build_tokenizer, write_tokenizer

READER_LAYER = 4


class Answers:
    """Films through the frozen encoder and the LLM; loss on answers and on what visual tokens know."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.tokenizer = args, build_tokenizer()
        self.model = grow(self.tokenizer, seed=args.seed) if args.start is None else load(args.start)
        self.model.model.visual.requires_grad_(False)
        torch.manual_seed(args.seed)
        self.reader = nn.Linear(encode_width(self.model), sum(LABELS.values()))
        self.films: dict[int, Film] = {}
        self.told: dict[int, np.ndarray] = {}
        self.seen = np.zeros((args.bank, UNITS, encode_width(self.model)), np.float16)
        self.end, self.pad = (self.tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>"))

    def look(self, numbers: list[int]) -> None:
        """Draw these films and have the encoder, which does not learn, see each of them once."""
        for number in (n for n in numbers if n not in self.films):
            film = seeded("train", self.args.seed, number)
            self.seen[number] = embeddings(self.model, film.frames[None])[0].half().numpy()
            self.told[number] = labels(film)
            self.films[number] = replace(film, frames=film.frames[:0])

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return what is trained, by name: the LLM and the reader."""
        named = [*self.model.named_parameters(), *self.reader.named_parameters("reader")]
        return [(name, p) for name, p in named if p.requires_grad]

    def pack(self, rows: list[list[Question]]) -> tuple[Tensor, Tensor]:
        """Return ids and targets [B, Q, T] of equally many questions a row."""
        sequences, answers = [], []
        for question in (q for row in rows for q in row):
            asked = self.tokenizer.encode(question.text + SUFFIX).ids
            answer = [*self.tokenizer.encode(question.answer).ids, self.end]
            answers.append((len(asked) - 1, len(answer)))
            sequences.append(asked + answer)
        ids, targets = aligned(sequences, answers, self.pad)
        shape = (len(rows), len(rows[0]), ids.shape[1])
        return torch.from_numpy(ids).view(shape), torch.from_numpy(targets).view(shape)

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step, and the accuracy of each kind of question and of the reader."""
        numbers = [n % self.args.bank for n in range(step * self.args.batch, (step + 1) * self.args.batch)]
        self.look(numbers)
        films, visual = [self.films[n] for n in numbers], torch.from_numpy(self.seen[numbers]).float()
        text, rows = self.model.model.language_model, [questions(film) for film in films]
        ids, targets = self.pack(rows)
        states: dict[int, Tensor | None] = {READER_LAYER: None}
        labels = torch.from_numpy(np.stack([self.told[n] for n in numbers]))
        shown = None
        if self.args.units < UNITS:
            chance = torch.rand(labels.shape[:2], generator=torch.Generator().manual_seed(step))
            shown = (chance + (labels[..., 0] >= 0)).topk(self.args.units, 1).indices.sort(1).values
            labels = labels.gather(1, shown[..., None].expand(-1, -1, labels.shape[-1]))
        labels = labels.flatten(0, 1)
        before = prefix(self.model, self.tokenizer, visual, shown)
        hidden = decode(text, before, text.embed_tokens(ids), entering=states)
        wanted = targets >= 0
        logits = self.model.lm_head(hidden[wanted]).float()
        loss = cross_entropy(logits, targets[wanted])
        hit = torch.ones_like(wanted)
        hit[wanted] = logits.argmax(-1) == targets[wanted]
        figures: dict[str, list[bool]] = {}
        asked = (question for row in rows for question in row)
        for question, right in zip(asked, hit.all(-1).flatten().tolist(), strict=True):
            figures.setdefault(question.kind, []).append(right)
        on = labels[:, 0] >= 0
        state = text.layers[READER_LAYER].input_layernorm(states[READER_LAYER])
        read = self.reader(state[:, before.visual].flatten(0, 1)[on]).float()
        known = {}
        for index, (name, part) in enumerate(zip(LABELS, read.split(list(LABELS.values()), -1), strict=True)):
            loss = loss + self.args.reader * cross_entropy(part, labels[on, index])
            known[name] = (part.argmax(-1) == labels[on, index]).float().mean().item()
        return loss, {**{kind: sum(v) / len(v) for kind, v in figures.items()}, **known}

    def state_dict(self) -> dict:
        """Return what a resumed run needs."""
        return {"model": self.model.state_dict(), "reader": self.reader.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`."""
        self.model.load_state_dict(state["model"])
        self.reader.load_state_dict(state["reader"])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--start", type=Path, help="checkpoint folder of an earlier run; default: the bundled one")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--units", type=int, default=UNITS, help="visual tokens that the LLM sees: the digits' first")
    parser.add_argument("--bank", type=int, default=2400, help="films there are, seen again in turn")
    parser.add_argument("--batch", type=int, default=12, help="films a step, eight questions each")
    parser.add_argument("--reader", type=float, default=0.5, help="weight of each label of visual tokens")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.3, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=0, help="seed of films")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    parser.add_argument("--report", type=int, default=20, help="steps between progress lines")
    parser.add_argument("--save", type=int, default=50, help="steps between checkpoints")
    args = parser.parse_args()
    args.stage = "clips"
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(args.out / "tokenizer")
    stage = Answers(args)
    optimiser = Optimiser(stage.parameters(), args.rate, args.steps, args.decay)
    optimise(stage, optimiser, args, torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16))
    export(stage.model, args.out / "tokenizer", args.out / "checkpoint")


if __name__ == "__main__":
    main()
