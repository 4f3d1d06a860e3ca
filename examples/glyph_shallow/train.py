"""Train it end to end on answers alone: `python -m glyph_shallow.train --out runs/shallow --steps 3000`.

No loss but the answers' own: nothing says what a visual row is to hold, or in which layer. Every step draws its pictures
and questions from the seed and the step's number, so a killed run goes on with the batches it would have seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from glyph_vqa.model import encode, export
from glyph_vqa.optimise import Optimiser
from glyph_vqa.pack import shared_prefix
from glyph_vqa.stages import Hop
from glyph_vqa.tokenizer import VOCABULARY, special_ids, write_tokenizer
from glyph_vqa.train import optimise
from glyph_vqa.decoder import decode
from torch import Tensor
from torch.nn.functional import cross_entropy

from .model import grow, shallow


class Answer(Hop):
    """Questions about real pictures; all weights learn from the answers."""

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return all parameters of the model by name."""
        return list(self.model.named_parameters())

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and the accuracy of each kind of question."""
        images, scenes = self.pictures(step)
        visual = encode(self.model, images).float()
        text, loss, right = self.model.model.language_model, torch.zeros(()), {}
        for pictures, embeddings, rows in self.forms(step, visual, scenes):
            packed = self.packer.pack(rows)
            ids = self.packer.prefix_ids(pictures)
            prefix = shared_prefix(text.embed_tokens, ids, self.model.config.image_token_id, embeddings)
            hidden = decode(text, prefix, text.embed_tokens(packed.ids), watched=None)
            wanted = packed.targets >= 0
            logits = self.model.lm_head(hidden[wanted]).float()
            loss = loss + cross_entropy(logits, packed.targets[wanted])
            hit = torch.ones_like(wanted)
            hit[wanted] = logits.argmax(-1) == packed.targets[wanted]
            asked = (question for row in rows for question in row)
            for question, correct in zip(asked, hit.all(-1).flatten().tolist(), strict=True):
                right.setdefault(question.kind, []).append(correct)
        accuracy = {kind: sum(v) / len(v) for kind, v in right.items()}
        self.curriculum.learn(accuracy)
        return loss, accuracy | {"all": sum(accuracy.values()) / len(accuracy)}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--batch", type=int, default=16, help="pictures per step")
    parser.add_argument("--questions", type=int, default=16, help="questions per picture")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.5, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and questions")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--report", type=int, default=25, help="steps between progress lines")
    parser.add_argument("--save", type=int, default=50, help="steps between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(args.out / "tokenizer")
    model = grow(shallow(VOCABULARY, special_ids(tokenizer)))
    stage = Answer(model, tokenizer, args)
    optimiser = Optimiser(stage.parameters(), args.rate, args.steps, args.decay, True)
    optimise(stage, optimiser, args, torch.autocast("cpu", torch.bfloat16))
    export(model, args.out / "tokenizer", args.out / "checkpoint")


if __name__ == "__main__":
    main()
