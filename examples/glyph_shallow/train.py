"""Train the shallow model: `python -m glyph_shallow.train --out runs/shallow --steps 4000 --fade 1500`.

The loss is that of answers alone: no reader, no label and no guide touches a visual row. Pictures, pages and questions
are glyph_deep's training splits. A run that was killed goes on from its last checkpoint when the same command is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from glyph_deep.data.labels import NAMES_OF_FIELDS
from glyph_deep.data.packing import Packer
from glyph_deep.data.questions import PAGE
from glyph_deep.data.tokenizer import build_tokenizer, write_tokenizer
from glyph_deep.train.answer import Hop
from glyph_deep.train.curriculum import Curriculum
from glyph_deep.train.encoder import encode
from glyph_deep.train.stages import mix
from glyph_vqa.decoder import decode
from glyph_vqa.model import export
from glyph_vqa.optimise import Optimiser
from glyph_vqa.pack import shared_prefix
from glyph_vqa.train import optimise
from torch import Tensor
from torch.nn.functional import cross_entropy

from .model import BLOCKS, cut, faded, grow, shares


class Answers(Hop):
    """Questions about pictures and pages, end to end, through an encoder whose later blocks fade away."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model, self.args, self.at = grow(seed=args.seed), args, 0
        self.packer, self.curriculum = Packer(build_tokenizer(), NAMES_OF_FIELDS), Curriculum()
        self.curriculum.ability.update(dict.fromkeys(PAGE, 0.9))
        visual = self.model.model.visual
        for part in (visual.patch_embed, *visual.blocks[:BLOCKS]):
            part.requires_grad_(False)

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the parameters that are trained, by name."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def look(self, images: np.ndarray, labels: Tensor, step: int) -> Tensor:
        """Return visual embeddings [B, units, 192] of uint8 pictures [B, H, W, 3]; the labels are not used."""
        begun = self.args.faded
        return encode(
            faded(self.model.model.visual, shares(min(1.0, begun + (1 - begun) * step / self.args.fade))), images
        )

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and the accuracy of each kind of question."""
        text, right, loss = self.model.model.language_model, {}, torch.zeros(())
        for grid, pictures, visual, _, rows in self.forms(step):
            packed = self.packer.pack(rows)
            ids = self.packer.prefix_ids(grid[0] * grid[1], pictures)
            prefix = shared_prefix(text.embed_tokens, ids, self.model.config.image_token_id, visual, grid)
            hidden = decode(text, prefix, text.embed_tokens(packed.ids))
            wanted = packed.targets >= 0
            logits = self.model.lm_head(hidden[wanted]).float()
            weight = len(rows) / sum(self.args.mix.values())
            loss = loss + weight * cross_entropy(logits, packed.targets[wanted])
            hit = torch.ones_like(wanted)
            hit[wanted] = logits.argmax(-1) == packed.targets[wanted]
            asked = (question for row in rows for question in row)
            for question, correct in zip(asked, hit.all(-1).flatten().tolist(), strict=True):
                right.setdefault(question.kind, []).append(correct)
        accuracy = {kind: sum(v) / len(v) for kind, v in right.items()}
        self.curriculum.learn(accuracy)
        pages = [v for k, v in accuracy.items() if k in PAGE]
        others = [v for k, v in accuracy.items() if k not in PAGE]
        means = {name: sum(v) / len(v) for name, v in (("PAGES", pages), ("PICTURES", others)) if v}
        return loss, {**means, **accuracy}

    def state_dict(self) -> dict:
        """Return what a resumed run needs."""
        return {"model": self.model.state_dict(), "ability": dict(self.curriculum.ability)}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`."""
        self.model.load_state_dict(state["model"])
        self.curriculum.ability = dict(state["ability"])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--start", type=Path, help="run to take the weights of")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps in all")
    parser.add_argument("--fade", type=int, default=1500, help="steps in which the encoder's later blocks fade")
    parser.add_argument("--faded", type=float, default=0.0, help="share of the fading that is over at the start")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument(
        "--mix", nargs="+", default=["plain=1", "textured=2", "short=1", "page=1"], help="a step's pictures"
    )
    parser.add_argument("--questions", type=int, default=16, help="questions per picture")
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.3, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and questions")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    parser.add_argument("--report", type=int, default=20, help="steps between progress lines")
    parser.add_argument("--save", type=int, default=100, help="steps between checkpoints")
    args = parser.parse_args()
    args.mix, args.stage = mix(args.mix), "shallow"
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(args.out / "tokenizer")
    stage = Answers(args)
    if args.start is not None and not (args.out / "state.pt").exists():
        stage.load_state_dict(torch.load(args.start / "state.pt", map_location="cpu")["state"])
    optimiser = Optimiser(stage.parameters(), args.rate, args.steps, args.decay)
    optimise(stage, optimiser, args, torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16))
    export(cut(stage.model), args.out / "tokenizer", args.out / "checkpoint")


if __name__ == "__main__":
    main()
