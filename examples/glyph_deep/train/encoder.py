"""The encoder over a batch of pictures of one size, windows side by side.

transformers runs every window of every picture as an attention of its own; here all windows of one shape run at once.
The weights are those of the transformers model, and so is the result (the tests hold the two against each other).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from glyph_vqa.model import MERGE, PATCH, patchify
from torch import Tensor, nn

WINDOW = 4  # units of a window's side: 112 pixels


@cache
def windows(rows: int, columns: int) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Return the order of units, window by window and by the windows' sizes, and (windows, units) of each size."""
    units = np.arange(rows * columns).reshape(rows, columns)
    blocks = [
        units[r : r + WINDOW, c : c + WINDOW].ravel() for r in range(0, rows, WINDOW) for c in range(0, columns, WINDOW)
    ]
    sizes = sorted({len(b) for b in blocks}, reverse=True)
    order = np.concatenate([b for size in sizes for b in blocks if len(b) == size])
    return torch.from_numpy(order), tuple((sum(len(b) == size for b in blocks), size) for size in sizes)


@cache
def rotary(rows: int, columns: int, width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [4 * units, width] of patches in the order of `windows`, as transformers makes them."""
    y, x = (
        np.mgrid[: rows * MERGE, : columns * MERGE]
        .reshape(2, rows, MERGE, columns, MERGE)
        .transpose(0, 1, 3, 2, 4)
        .reshape(2, -1, 4)
    )
    order = windows(rows, columns)[0].numpy()
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, width // 2, 2).float() / (width // 2)))
    where = torch.from_numpy(np.stack([y[order].ravel(), x[order].ravel()], -1)).to(frequencies)
    angles = (where[..., None] * frequencies).flatten(1)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys [B, heads, N, d]."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def look(q: Tensor, k: Tensor, gone: Tensor | None = None) -> Tensor:
    """Return attention weights [B, heads, N, N].

    Plain products: in bfloat16, backward pass included, they take a sixth of the fused kernel's time on a CPU.

    `gone` [B, N] is true for keys that are not there; where a query sees none, its weights are 0.
    """
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if gone is None:
        return weights.softmax(-1, dtype=q.dtype)
    return weights.masked_fill(gone[:, None, None], float("-inf")).softmax(-1).nan_to_num()


def attend(q: Tensor, k: Tensor, v: Tensor, groups: tuple[tuple[int, int], ...], gone: Tensor | None = None) -> Tensor:
    """Return attention [B, heads, N, d] inside the windows of `groups`."""
    (b, heads, _, d), out, at = q.shape, [], 0
    for count, units in groups:
        part = slice(at, at := at + 4 * count * units)
        inside = [x[:, :, part].reshape(b, heads, count, 4 * units, d).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        mixed = look(*inside[:2], None if gone is None else gone[:, part].reshape(b * count, 4 * units)) @ inside[2]
        out.append(mixed.view(b, count, heads, 4 * units, d).transpose(1, 2).reshape(b, heads, -1, d))
    return torch.cat(out, 2)


def block(
    layer: nn.Module,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    groups: tuple[tuple[int, int], ...],
    gone: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run one encoder block on patches [B, N, D]; nothing attends to those that are `gone` [B, N].

    The second is the attention [B, heads, N, N] of a block without windows (no `groups`).
    """
    heads = layer.attn.num_heads
    q, k, v = layer.attn.qkv(layer.norm1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k, v = rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rotate(k, cos.to(k.dtype), sin.to(k.dtype)), v.contiguous()
    weights = None if groups else look(q, k, gone)
    mixed = attend(q, k, v, groups, gone) if weights is None else weights @ v
    x = x + layer.attn.proj(mixed.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.norm2(x)), weights


def grid_of(images: np.ndarray) -> tuple[int, int]:
    """Return rows and columns of units of pictures [B, H, W, 3]."""
    return images.shape[1] // (PATCH * MERGE), images.shape[2] // (PATCH * MERGE)


def embed(visual: nn.Module, images: np.ndarray) -> Tensor:
    """Return embedded patches [B, 4 * units, width] of uint8 pictures [B, H, W, 3], in the order of `windows`."""
    order = windows(*grid_of(images))[0]
    pixels = patchify(images).view(len(images), len(order), 4, -1)[:, order].flatten(1, 2)
    weight = visual.patch_embed.proj.weight.flatten(1)
    return nn.functional.linear(pixels.to(weight.device), weight)


@dataclass(frozen=True)
class Change:
    """What happens to units after an encoder block: those not in `stay` [B, units] leave, or pairs are averaged."""

    after: int
    stay: Tensor | None = None
    pairs: bool = False


def encode(
    visual: nn.Module,
    images: np.ndarray,
    change: Change | None = None,
    watched: dict[int, tuple[Tensor, Tensor | None] | None] | None = None,
) -> Tensor:
    """Return visual embeddings [B, units, D] of uint8 pictures [B, H, W, 3].

    `watched` maps blocks to what is replaced by their output, the four patches of a unit side by side [B, units,
    4 * width], and, where a block has no windows, its attention [B, heads, 4 * units, 4 * units], patches in the order
    of `windows`. A `change` is for measuring alone: units that left are attended to by none after it (their own
    embeddings mean nothing); of two neighbours in a row that are averaged, both go on with the mean.
    """
    b, (rows, columns) = len(images), grid_of(images)
    order, groups = windows(rows, columns)
    back = order.argsort()
    x = embed(visual, images)
    cos, sin = rotary(rows, columns, x.shape[-1] // visual.blocks[0].attn.num_heads)
    gone = None
    for index, layer in enumerate(visual.blocks):
        x, weights = block(layer, x, cos, sin, () if index in visual.fullatt_block_indexes else groups, gone)
        if watched is not None and index in watched:
            watched[index] = (x.unflatten(1, (-1, 4)).flatten(2)[:, back], weights)
        if change is not None and index == change.after:
            if change.stay is not None:
                gone = (~change.stay[:, order]).repeat_interleave(4, 1)
            if change.pairs:
                x = averaged(x.unflatten(1, (-1, 4))[:, back], rows, columns)[:, order].flatten(1, 2)
    return visual.merger(x).view(b, rows * columns, -1)[:, back]


def averaged(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return units [B, rows * columns, 4, D] in which the two of every pair of neighbours in a row are their mean."""
    x = x.unflatten(1, (rows, columns))
    even = columns - columns % 2
    pairs = x[:, :, :even].unflatten(2, (-1, 2)).mean(3, keepdim=True).expand(-1, -1, -1, 2, -1, -1).flatten(2, 3)
    return torch.cat([pairs, x[:, :, even:]], 2).flatten(1, 2)
