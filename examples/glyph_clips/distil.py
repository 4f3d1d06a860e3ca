"""Teach the encoder whose frames merge: `python -m glyph_clips.distil --out runs/clips-distil --steps 600`.

No labels and no questions: the target of every unit is what the checkpoint's own encoder says of the whole film (train
split). Units merge by the functions that are exported, as `MERGED` says (the tests hold this encoder against the
exported one); the LLM stays as it is. Of a moment's two frames the first stands for both, as in training. A run that
was killed goes on from its last checkpoint when the same command is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from glyph_deep.train.distil import distance
from glyph_deep.train.encoder import block, embed, grid_of, rotary, windows
from glyph_deep.train.encoder import encode as encode_whole
from glyph_vqa.model import export
from glyph_vqa.optimise import Optimiser
from glyph_vqa.train import optimise
from torch import Tensor, nn

from luvc_export.core.plan.merging import TimeMerge
from luvc_export.export.compression import time_merge

from .cases import CHECKPOINT
from .films import MOMENTS, seeded
from .model import load

#: After the first block a place's 8 moments become 3: 1.92 times fewer FLOPs of the encoder's 4 blocks.
MERGED = TimeMerge(0, MOMENTS, 3)


PATCHES = 4  # of a unit


def encode(visual: nn.Module, images: np.ndarray, how: TimeMerge) -> Tensor:
    """Return visual embeddings [B, units, D] of uint8 moments [B, H, W, 3], clip after clip, merged along time."""
    rows, columns = grid_of(images)
    order, groups = windows(rows, columns)
    x, merged = embed(visual, images), None
    cos, sin = rotary(rows, columns, x.shape[-1] // visual.blocks[0].attn.num_heads)
    for index, layer in enumerate(visual.blocks):
        x, _ = block(layer, x, cos, sin, () if index in visual.fullatt_block_indexes else groups)
        if index == how.block:
            with torch.autocast("cpu", enabled=False):
                merged, x = time_merge.merge(x.float(), how, PATCHES)
    with torch.autocast("cpu", enabled=False):
        x = time_merge.restored(merged, x, PATCHES)
    return visual.merger(x).view(len(images), rows * columns, -1)[:, order.argsort()]


class Distil:
    """Films through the encoder that merges; loss against the one that does not."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.how = args, TimeMerge(args.block, MOMENTS, args.keep)
        self.model = load(args.start).requires_grad_(False)
        self.teacher = load(args.start).model.visual.requires_grad_(False)
        self.model.model.visual.requires_grad_(True)

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the encoder's parameters by name."""
        return list(self.model.model.visual.named_parameters())

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step, and its distance."""
        numbers = range(step * self.args.batch, (step + 1) * self.args.batch)
        moments = np.concatenate([seeded("train", self.args.seed, number).frames[::2] for number in numbers])
        with torch.no_grad():
            target = encode_whole(self.teacher, moments).float()
        loss = distance(encode(self.model.model.visual, moments, self.how), target)
        return loss, {"distance": loss.item()}

    def state_dict(self) -> dict:
        """Return what a resumed run needs."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`."""
        self.model.load_state_dict(state["model"])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--start", type=Path, default=CHECKPOINT, help="checkpoint folder, its own teacher")
    parser.add_argument("--block", type=int, default=MERGED.block, help="block after which units merge")
    parser.add_argument("--keep", type=int, default=MERGED.keep, help="moments that are left of 8")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--batch", type=int, default=4, help="films a step")
    parser.add_argument("--rate", type=float, default=3e-4, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.8, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=3, help="seed of films")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    parser.add_argument("--report", type=int, default=20, help="steps between progress lines")
    parser.add_argument("--save", type=int, default=50, help="steps between checkpoints")
    args = parser.parse_args()
    args.stage = "distil"
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    stage = Distil(args)
    optimiser = Optimiser(stage.parameters(), args.rate, args.steps, args.decay)
    optimise(stage, optimiser, args, torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16))
    export(stage.model, args.start, args.out / "checkpoint")


if __name__ == "__main__":
    main()
