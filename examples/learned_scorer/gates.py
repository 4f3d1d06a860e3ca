"""A prune as something that can be learned: the choice of K tokens forward, the gradient of soft gates backward.

Each visual token gets a gate in (0, 1); gates of a picture add up to K. From the layer on that the prune stands before,
attention lowers the logits of the keys of tokens that are not chosen, by a strength that grows until they are gone.
Chosen are those whose gate is above a half; the gradient passes through the gates (straight through). Gates alone would
not do: attention does not see a factor that all keys share, so equal gates would prune nothing (tried). The form of W_q
and W_k is VisionSelector's, these gates are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor

from luvc_export.export.compression.scores import ScoreInput
from luvc_export.export.compression.scores.learned import SCORE
from luvc_export.export.llm import decoder as decoders
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.sight import Sight

#: Bisections that find the threshold: gates add up to K within a millionth.
BISECTIONS = 40


def scores(maps: Tensor, normed: Tensor) -> Tensor:
    """Return the learned score [B, N] of visual tokens `normed` [B, N, D], as an exported prune computes it."""
    return SCORE.score(ScoreInput(normed[:, None], maps, "token"))[:, 0]


def soften(score: Tensor, keep: int, temperature: float) -> Tensor:
    """Return logits [B, N] of gates that add up to `keep` for each row; gradients pass through the threshold too."""
    spread = score.std(1, keepdim=True).clamp(min=1e-6)
    scaled = (score - score.mean(1, keepdim=True)) / (spread * temperature)
    with torch.no_grad():
        low, high = scaled.amin(1, keepdim=True) - 30, scaled.amax(1, keepdim=True) + 30
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            more = torch.sigmoid(scaled - middle).sum(1, keepdim=True) > keep
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        gate = torch.sigmoid(scaled - low)
        weight = gate * (1 - gate)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    moved = (weight * (scaled - scaled.detach())).sum(1, keepdim=True)
    return scaled - (low + moved)


@contextmanager
def gated(
    decoder: Decoder, layer: int, tokens: int, choose: Callable[[Tensor], Tensor], strength: float = 30.0
) -> Iterator[None]:
    """Let `decoder`, of an uncompressed plan, lower visual keys from `layer` on while the block runs.

    `choose` gets the visual tokens after that layer's input norm [B, tokens, D] and returns logits of gates
    [B, tokens]; keys of gates below a half lose `strength` nats.
    """
    inner, bias = decoder._layer, None

    def weighed(module: Any, x: Tensor, sight: Sight, held: Mapping[str, Tensor], *rest: Any) -> Any:
        nonlocal bias
        mask = sight.mask(decoder.kind(module), held["key"].shape[2], rest[0])
        if module is decoder.layers[layer]:
            normed = decoder.norm_of(decoder.parts(module).before, x[:, :tokens]).float()
            logits = choose(normed)
            gate = torch.sigmoid(logits)
            lost = strength * ((logits > 0).float() + gate - gate.detach() - 1)
            bias = torch.nn.functional.pad(lost, (0, mask.shape[3] - tokens))[:, None, None]
        added = mask if bias is None else torch.where(mask, bias, torch.finfo(bias.dtype).min)
        seen = copy(sight)
        seen.mask = lambda *kind: added  # type: ignore[method-assign]
        return inner(module, x, seen, held, *rest)

    decoder._layer = weighed  # type: ignore[method-assign]
    exported, decoders.rotate = decoders.rotate, rotate  # that of the export has no gradient
    try:
        yield
    finally:
        del decoder._layer
        decoders.rotate = exported


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the rotary embedding, halves not interleaved, as `luvc_export.export.layers.rotate`."""
    first, second = x.chunk(2, -1)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
