"""Stage `see`: the vision encoder learns which digit, colour, row and column each visual token shows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .model import LABELS, codebook

SHARPNESS = 8.0  # logit of a label = SHARPNESS * <output, code>; a perfect output scores 8 against about 0


def see_loss(visual: Tensor, shown: np.ndarray, codes: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of visual embeddings `[B, 108, 192]` against labels `[B, 108, 4]`, and accuracy per label.

    Cross-entropy of every label on the tokens that show a digit, plus the squared distance to the sum of codes (to the
    code `none` elsewhere), so that the encoder ends on the very vectors the decoder was taught with.
    """
    target, visual = torch.from_numpy(shown).to(visual.device), visual.float()
    on = target[..., 0] >= 0
    wanted = symbols(target, codes)
    loss = 0.5 * (visual - wanted).square().sum(-1).mean() + (visual - wanted)[on].square().sum(-1).mean()
    right = {}
    for i, name in enumerate(LABELS):
        logits = SHARPNESS * visual[on] @ codes[name].T
        loss = loss + cross_entropy(logits, target[on][:, i])
        right[name] = (logits.argmax(-1) == target[on][:, i]).float().mean().item()
    return loss, right


def symbols(target: Tensor, codes: dict[str, Tensor]) -> Tensor:
    """Return the ideal visual embeddings `[..., 192]` of labels `[..., 4]`: the sum of codes, or the code `none`."""
    total = sum(codes[name][target[..., i].clamp_min(0)] for i, name in enumerate(LABELS))
    return torch.where((target[..., :1] >= 0), total, codes["none"])


def noisy_symbols(target: Tensor, codes: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Return symbols as an imperfect encoder would give them: some missed, some digits doubtful, noise on all."""
    shape, device = target.shape[:-1], target.device
    missed = torch.rand(shape, generator=rng, device=device) < 0.03
    target = torch.where(missed[..., None], -1, target)
    clean = symbols(target, codes)
    doubt = torch.rand(shape, generator=rng, device=device) * 0.6
    doubt = torch.where((torch.rand(shape, generator=rng, device=device) < 0.08) & (target[..., 0] >= 0), doubt, 0.0)
    other = codes["digit"][torch.randint(10, shape, generator=rng, device=device)]
    clean = clean + doubt[..., None] * (other - codes["digit"][target[..., 0].clamp_min(0)])
    return clean + 0.03 * torch.randn(clean.shape, generator=rng, device=device)


def fresh_codes(device: torch.device) -> dict[str, Tensor]:
    """Return the codebook on a device."""
    return {k: v.to(device) for k, v in codebook().items()}
