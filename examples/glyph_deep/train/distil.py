"""Stage `distil`: the pruned encoder learns what the uncompressed one gives, from pictures alone.

No labels and no questions: the target of every unit is what the encoder that it starts from says of the whole picture.
"""

from __future__ import annotations

import argparse
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from glyph_deep.data import page
from luvc_export.core.plan import EncoderPlan
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.export.checkpoint import open_checkpoint

from .encoder import encode, grid_of
from .model import load
from .pruned import encode as encode_pruned
from .see import draw

BLOCK = 2  # after which units leave: what they score there tells units that hold ink from others
FEWER = 1.5  # FLOPs of the encoder's blocks, uncompressed by pruned, at least
STEP = 0.005  # of the share that goes on
SHARPNESS, OTHERS = 4.0, 0.3  # of the loss of scores
CHECKPOINT = Path(__file__).parents[1] / "checkpoint"


@cache
def prune_for(grid: tuple[int, int], block: int = BLOCK, fewer: float = FEWER) -> EncoderPrune:
    """Return the prune of a grid of units that keeps most at `fewer` times fewer encoder FLOPs."""
    opened = open_checkpoint(str(CHECKPOINT))
    shape = opened.family.encoder_shape(opened.config)
    for steps in range(round(1 / STEP) - 1, 0, -1):
        prune = EncoderPrune(block, round(steps * STEP, 3))
        if encoder_ratio(replace(EncoderPlan(grid), prune=prune), shape) >= fewer:
            return prune
    raise ValueError(f"no share of a {grid} grid saves {fewer}x after block {block}")


def contrast(target: Tensor) -> Tensor:
    """Return how much each unit [B, units] says: how far its embedding is from its picture's median, a blank one."""
    return (target - target.median(1, keepdim=True).values).square().sum(-1)


def distance(embeds: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of embeddings [B, units, D] to their target.

    Over all units, and once more weighted by their contrast: those that say something count as much as all the rest.
    """
    missed, weight = (embeds.float() - target).square().sum(-1), contrast(target)
    return missed.mean() + (missed * weight).sum() / weight.sum()


def ranking(scores: Tensor, target: Tensor, keep: int) -> Tensor:
    """Return how far scores [B, units] are from putting units of contrast among the `keep` best; a choice has no slope.

    Softplus of each unit's distance from the last score that goes on, in standard deviations, weighted by contrast;
    that of others weighs less, since there is room for some of them.
    """
    says = contrast(target)
    says = says / says.amax(1, keepdim=True)
    last = scores.detach().topk(keep, 1).values[:, -1:]
    above = (scores - last) / scores.detach().std(1, keepdim=True)
    missed = (says * softplus(-above, SHARPNESS)).sum() / says.sum()
    return missed + OTHERS * ((1 - says) * softplus(above, SHARPNESS)).mean()


class Distil:
    """Pictures and pages of the train split through the pruned encoder; loss against the one it starts from."""

    def __init__(self, model: nn.Module, args: argparse.Namespace) -> None:
        if len(args.start) != 1 or not (args.start[0] / "config.json").is_file():
            raise SystemExit(
                "--stage distil starts from one checkpoint folder, which is its teacher too: --start FOLDER"
            )
        self.model, self.args = model, args
        self.teacher = load(args.start[0]).model.visual.requires_grad_(False)
        self.ahead = ThreadPoolExecutor(1)
        self.coming: dict[int, Future[list[tuple[np.ndarray, Tensor]]]] = {}

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the encoder's parameters by name."""
        return list(self.model.model.visual.named_parameters())

    def pictures(self, step: int) -> list[tuple[np.ndarray, Tensor]]:
        """Return the pictures of a step, those of one size together, and what the teacher says of them."""
        batches, mix = [], self.args.mix
        for grounds in (("plain", "textured"), *((name,) for name in page.FORMATS)):
            numbers = [(ground, step * mix[ground] + i) for ground in grounds for i in range(mix.get(ground, 0))]
            if numbers:
                images = np.stack([draw(ground, self.args.seed, number)[0] for ground, number in numbers])
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.args.bfloat16):
                    batches.append((images, encode(self.teacher, images).float()))
        return batches

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and its distances by size; the next step's targets are computed meanwhile."""
        batches = self.coming.pop(step).result() if step in self.coming else self.pictures(step)
        self.coming[step + 1] = self.ahead.submit(self.pictures, step + 1)
        loss, figures, count = torch.zeros(()), {}, sum(self.args.mix.values())
        for images, target in batches:
            grid = grid_of(images)
            prune = prune_for(grid)
            embeds, scores = encode_pruned(self.model.model.visual, images, prune)
            missed, ranks = distance(embeds, target), ranking(scores, target, prune.count(scores.shape[1]))
            loss = loss + (missed + ranks) * (len(images) / count)
            name = "x".join(map(str, grid))
            figures |= {name: missed.item(), f"{name}_ranks": ranks.item()}
        return loss, figures

    def state_dict(self) -> dict:
        """Return what a resumed run or a later stage needs."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`."""
        self.model.load_state_dict(state["model"])
