"""The optimiser: Muon for the matrices of the blocks, AdamW for the rest; warm-up, plateau, linear fall."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

WARM_UP = 60  # steps


MUON_RATE = 2.0  # Muon's rate over AdamW's, with updates scaled to AdamW's usual root mean square (0.2)


class Optimiser:
    """Muon and AdamW; `rate` is AdamW's plateau, `decay` the last fraction of `steps` in which it falls to 2 %.

    Embeddings, heads, biases and norms go to AdamW, and so do all matrices when `muon` is false.
    """

    def __init__(
        self, named: Iterable[tuple[str, Tensor]], rate: float, steps: int, decay: float, muon: bool = True
    ) -> None:
        self.rate, self.steps, self.decay = rate, steps, decay
        named = [(name, p) for name, p in named if p.requires_grad]
        self.parameters = [p for _, p in named]
        inner = {id(p) for name, p in named if muon and p.ndim == 2 and ("layers." in name or "blocks." in name)}
        groups = [
            {"params": [p for p in self.parameters if id(p) not in inner and p.ndim >= 2], "weight_decay": 0.01},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.parts = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-9)]
        if inner:
            matrices = [p for p in self.parameters if id(p) in inner]
            self.parts.append(torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"))

    def rate_at(self, step: int) -> float:
        """Return AdamW's learning rate of a step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.rate * min((step + 1) / WARM_UP, 1.0, 0.02 + 0.98 * left)

    def step(self, loss: Tensor, step: int) -> None:
        """Take one step down the gradient of `loss`, its norm clipped to 1."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part, factor in zip(self.parts, (1.0, MUON_RATE), strict=False):
            for group in part.param_groups:
                group["lr"] = self.rate_at(step) * factor
            part.step()

    def state_dict(self) -> list[dict]:
        """Return what a resumed run needs."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore `state_dict()`."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
