"""Rotary angles from float positions: one rule for 1-D RoPE, M-RoPE, interleaved M-RoPE and several positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.export.compression import oim


class Rope(nn.Module):
    """cos and sin caches from position ids.

    Args:
        inv_freq: fp32 [Dh / 2], radians per position.
        axes: Which position axis turns each frequency, Dh / 2 ints.
        scaling: Factor on cos and sin (``attention_scaling`` of transformers' RoPE types), one or Dh / 2 of them.
        copies: Original positions each token carries; frequency i uses copy i modulo ``copies`` (reconstruction of
            PPE, which cycles triples over the rotary dimensions).
        axes_per_copy: Position axes of one copy.
    """

    inv_freq: Tensor
    axes: Tensor

    def __init__(
        self,
        inv_freq: Tensor,
        axes: list[int],
        scaling: float | Sequence[float] = 1.0,
        copies: int = 1,
        axes_per_copy: int = 1,
    ) -> None:
        super().__init__()
        spread = [axis + axes_per_copy * (i % copies) for i, axis in enumerate(axes)]
        self.register_buffer("inv_freq", inv_freq.float().clone(), persistent=False)
        self.register_buffer("axes", torch.tensor(spread), persistent=False)
        self.sequential = not any(spread)
        factors = [scaling] if isinstance(scaling, float | int) else list(scaling)
        same = len(set(factors)) == 1
        self.scaling = float(factors[0]) if same else torch.tensor(factors, dtype=torch.float32)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """fp32 positions [A, B, S] -> (cos, sin), each fp32 [B, S, Dh / 2]."""
        if self.sequential:  # OpenVINO 2026.4 fails on a Transpose of one axis' positions where tokens merge
            angle = position_ids[0][:, :, None] * self.inv_freq
        else:
            angle = position_ids.index_select(0, self.axes).permute(1, 2, 0) * self.inv_freq
        return angle.cos() * self.scaling, angle.sin() * self.scaling


def merged_positions(units: oim.Units, plan: Plan) -> Tensor:
    """(row, column) pairs that units carry into the LLM [B, H, W, 2 * copies]: their mean, or several originals."""
    return units.copies if plan.encoder.positions == "multi" else units.positions


def mrope_axes(section: list[int]) -> list[int]:
    """Axis per frequency of Qwen2-VL's M-RoPE: ``section`` [16, 24, 24] means t 16 times, h 24 times, w 24 times."""
    return [axis for axis, count in enumerate(section) for _ in range(count)]
