"""Small weights: where a run starts from, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .layers import FUSED, LAYERS, Instrument

TRIAL = {"gate_up": "gu"}  # names of fused matrices in the trial's file
TRIAL_SCALE = 2.0  # by which the trial multiplied its LoRA


def lower(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return (b [rows, rank], a [rank, columns]) whose product is nearest to that of the two matrices (SVD)."""
    (qb, rb), (qa, ra) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(rb @ ra.T)
    root = s[:rank].sqrt()
    return qb @ u[:, :rank] * root, (qa @ v[:rank].T * root).T


@torch.no_grad()
def begin(model: Instrument, file: Path, share: float) -> None:
    """Give a model the trial's projection, marks and `share` of its LoRA, brought to the model's rank."""
    small = {name: value.float() for name, value in load_file(file).items()}
    model.project.weight.copy_(small["proj_w"])
    model.project.bias.copy_(small["proj_b"])
    model.marks.copy_(small["marks"])
    for i in range(LAYERS if share else 0):
        for name in FUSED:
            key, place = f"{i}_{TRIAL.get(name, name)}", f"{i}_{name}"
            b, a = lower(TRIAL_SCALE * share * small[f"b.{key}"], small[f"a.{key}"], len(model.a[place]))
            model.b[place].copy_(b)
            model.a[place].copy_(a)
