"""The encoder with units leaving after a block and coming back at its end, over a batch of pictures of one size.

What `EncoderPrune` says, chosen and restored by the functions that are exported; blocks after it compute kept units
alone, so that a step of training costs less as well. The tests hold it against the tower that is exported.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.export.compression import unit_prune

from .encoder import attend, block, embed, grid_of, look, rotary, rotate, windows


class Among(NamedTuple):
    """Where kept units are.

    Attributes:
        kept: What the prune kept, units in the order of `windows`.
        place: Of every unit [B, units] its place among the kept, 0 for those that left.
        gone: True for patches that left [B, 4 * units].
        scores: Of every unit, fp32 [B, units], in the order of `windows`.
    """

    kept: unit_prune.Kept
    place: Tensor
    gone: Tensor
    scores: Tensor


def choose(prune: EncoderPrune, x: Tensor, following: nn.Module) -> Among:
    """Return which units of patches [B, N, D] go on: by the score `norm`, after the norm that reads them next."""
    with torch.autocast("cpu", enabled=False):
        units = x.float().unflatten(1, (-1, 4)).flatten(2)
        count = units.shape[1]
        normed = following(x.float()).unflatten(1, (-1, 4)).flatten(2)
        scores = unit_prune.score(prune, normed, normed, None)
        at = unit_prune.select(scores.detach(), [(1, count, prune.count(count))])
        kept = unit_prune.prune(units, at, prune)
    place = torch.zeros(units.shape[:2], dtype=torch.int64)
    place = place.scatter(1, at, torch.arange(at.shape[1]).expand_as(at))
    gone = torch.ones(units.shape[:2], dtype=torch.bool).scatter(1, at, False)
    return Among(kept, place, gone.repeat_interleave(4, 1), scores)


def patches_at(x: Tensor, units: Tensor) -> Tensor:
    """Return the patches [B, 4 * K, ...] of the units at [B, K] of patches [B or 1, N, ...]."""
    per_unit = x.unflatten(1, (-1, 4)).expand(len(units), -1, -1, -1)
    return unit_prune.rows(per_unit, units).flatten(1, 2)


def pruned_block(
    layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, groups: tuple[tuple[int, int], ...], among: Among
) -> Tensor:
    """Run one block on kept patches [B, N, D]; inside windows, `groups`, attention runs on them with their gaps."""
    qkv, at = layer.attn.qkv(layer.norm1(x)), among.kept.chosen_at
    if groups:
        qkv = patches_at(qkv, among.place)
        cos, sin = cos[None], sin[None]
    else:
        cos, sin = (patches_at(part[None], at) for part in (cos, sin))
    q, k, v = qkv.unflatten(-1, (3, layer.attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    cos, sin = (part[:, None].to(q.dtype) for part in (cos, sin))
    q, k, v = rotate(q, cos, sin), rotate(k, cos, sin), v.contiguous()
    mixed = attend(q, k, v, groups, among.gone) if groups else look(q, k) @ v
    out = mixed.transpose(1, 2).flatten(2)
    x = x + layer.attn.proj(patches_at(out, at) if groups else out)
    return x + layer.mlp(layer.norm2(x))


def encode(visual: nn.Module, images: np.ndarray, prune: EncoderPrune) -> tuple[Tensor, Tensor]:
    """Return visual embeddings [B, units, D] of uint8 pictures [B, H, W, 3] under a prune of the whole image.

    The second are the scores [B, units] by which units went on.
    """
    rows, columns = grid_of(images)
    order, groups = windows(rows, columns)
    x, among = embed(visual, images), None
    cos, sin = rotary(rows, columns, x.shape[-1] // visual.blocks[0].attn.num_heads)
    for index, layer in enumerate(visual.blocks):
        inside = () if index in visual.fullatt_block_indexes else groups
        if among is None:
            x, _ = block(layer, x, cos, sin, inside)
        else:
            x = pruned_block(layer, x, cos, sin, inside, among)
        if index == prune.block:
            among = choose(prune, x, visual.blocks[index + 1].norm1)
            x = among.kept.chosen.unflatten(2, (4, -1)).flatten(1, 2)
    with torch.autocast("cpu", enabled=False):
        units = unit_prune.restored(among.kept, x.float().unflatten(1, (-1, 4)).flatten(2))
    x = units.unflatten(2, (4, -1)).flatten(1, 2)
    back = order.argsort()
    return visual.merger(x).view(len(images), rows * columns, -1)[:, back], among.scores[:, back]
