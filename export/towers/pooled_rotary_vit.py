"""Gemma 4's encoder: 2-D rotary and learned 2-D positions, clipped projections, units pooled at the end.

A unit is the square of patches that becomes one token. Attention is full, so units may stand in any order; each patch
keeps its own angles, and a merged unit those at the mean position of what it is made of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression import oim
from luvc_export.export.families.base import Normalise
from luvc_export.export.layers import attention, norm, rotate, split_heads
from luvc_export.export.llm.rope import Rope
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT, Parts, Stage


class PooledRotaryViT(LearnedPositionViT):
    """Tower on any grid, pooling, standardisation and projection.

    Args:
        tower: Vision model with ``patch_embedder``, ``encoder`` and ``pooler``.
        projector: Norm and linear layer into the LLM.
        plan: Grid and merges.
        normalise: Pixel arithmetic of the processor: values from 0 to 1, which the model itself centres.
    """

    inner: Tensor
    #: What the family's processor gives: patches of any grid, padded to a number.
    padded_patches = True

    def __init__(self, tower: Any, projector: Any, plan: Plan, normalise: Normalise) -> None:
        side = tower.config.pooling_kernel_size
        super().__init__(tower, plan, normalise, plan.grid, side, (tower.config.num_hidden_layers,))
        self.projector = projector
        self.head_dim, self.scale = self.config.head_dim, 1.0
        quarter = self.head_dim // 4
        inv_freq = self.config.rope_parameters["rope_theta"] ** -(torch.arange(quarter) / quarter)
        self.rope = Rope(inv_freq.repeat(2), [1] * quarter + [0] * quarter)  # columns turn the first half of a head
        inner = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
        self.register_buffer("inner", inner.reshape(side * side, 2).float(), persistent=False)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]: means and their scale in fp32, which exceeds fp16."""
        x, hidden = states[0], self.config.hidden_size
        pooled = x.float().reshape(x.shape[0], -1, self.side**2, hidden).mean(2).to(x.dtype)
        pooled = pooled.float() * hidden**0.5
        if self.config.standardize:
            pooled = (pooled - self.tower.std_bias.float()) * self.tower.std_scale.float()
        projected: Tensor = self.projector.embedding_projection(
            norm(self.projector.embedding_pre_projection_norm, pooled.to(x.dtype))
        )
        return projected

    def parts(self, layer: Any) -> Parts:
        """Norms before each half; those behind are applied where the halves end."""
        a = layer.self_attn
        before, after = layer.input_layernorm, layer.pre_feedforward_layernorm
        return Parts(before, a.q_proj, a.k_proj, a.v_proj, layer, after, layer.mlp)

    def turns(self, units: oim.Units) -> tuple[Tensor, ...]:
        """Of the patches of every unit, at the unit's position."""
        place = units.positions.flatten(1, 2)
        patch = (place[:, :, None] * self.side + self.inner).flatten(1, 2)
        angles = self.rope(patch.permute(2, 0, 1))
        return tuple(part.reshape(part.shape[0], -1, self.side**2 * self.head_dim // 2) for part in angles)

    def _start(self, image: Tensor) -> tuple[Tensor, int]:
        (rows, columns), side, embedder = self.plan.grid, self.side, self.tower.patch_embedder
        patch, weight = self.config.patch_size, embedder.input_proj.weight
        pixels = self.normalise(image)[:, 0].reshape(-1, rows, side, patch, columns, side, patch, 3)
        pixels = pixels.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, rows * columns * side * side, 3 * patch * patch)
        x = embedder.input_proj((2 * (pixels - 0.5)).to(weight.dtype))
        raster, table = self._unit_order(), embedder.position_embedding_table
        down, across = raster // (columns * side), raster % (columns * side)
        return x + table[0].index_select(0, across) + table[1].index_select(0, down), 0

    def _attended(self, parts: Parts, x: Tensor, stage: Stage) -> Tensor:
        attn, normed = parts.out.self_attn, norm(parts.before, x)
        query, key, value = (
            norm(normalise, split_heads(projection(normed), self.head_dim))
            for projection, normalise in (
                (parts.query, attn.q_norm),
                (parts.key, attn.k_norm),
                (parts.value, attn.v_norm),
            )
        )
        cos, sin = (turn.reshape(turn.shape[0], -1, self.head_dim // 2) for turn in stage.turns)
        query, key = self._turned(query, cos, sin), self._turned(key, cos, sin)
        return attention(query, key, value, self._bias(stage, x.dtype), self.scale)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Each half of a head by one axis."""
        halves = zip(x.chunk(2, -1), cos.chunk(2, -1), sin.chunk(2, -1), strict=True)
        return torch.cat([rotate(part, *angles) for part, *angles in halves], -1)

    def _after_attention(self, parts: Parts, x: Tensor, out: Tensor) -> Tensor:
        layer = parts.out
        x = x + norm(layer.post_attention_layernorm, layer.self_attn.o_proj(out))
        return x + norm(layer.post_feedforward_layernorm, parts.mlp(norm(parts.after, x)))
