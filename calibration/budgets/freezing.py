"""Which LLM layers to freeze first (``Plan.kv_only``): by how little the model's predictions move, measured again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luvc_export.calibration.ablation.store import plan_key
from luvc_export.calibration.budgets.space import Space
from luvc_export.calibration.budgets.trials import Trials
from luvc_export.errors import Progress

#: Questions whose predictions are compared, at most (ShortV takes 40).
SAMPLES = 40


@dataclass(frozen=True)
class Frozen:
    """A layer and where it stands: freezing it and all before it moves predictions by ``divergence`` (nats a token)."""

    layer: int
    divergence: float


def moved(uncompressed: Sequence[Tensor], predictions: Sequence[Tensor]) -> float:
    """KL divergence of predictions from the uncompressed ones, nats a token, mean over the tokens of all questions.

    Args:
        uncompressed: Log probabilities fp32 [tokens, vocabulary] of each question; there may be more than
            of ``predictions``.
        predictions: The same under a plan.
    """
    each = [(p.exp() * (p - q)).sum(-1) for p, q in zip(uncompressed, predictions, strict=False)]
    return float(torch.cat(each).mean())


def order(
    divergence: Callable[[tuple[int, ...]], float],
    layers: Collection[int],
    every: int,
    progress: Progress = lambda stage, done: None,
) -> list[Frozen]:
    """All of ``layers``, the one that matters least first.

    Greedy: what each layer adds depends on those frozen already (ShortV measures alone), so the rest is measured again
    after every ``every`` layers.

    Args:
        divergence: Of the predictions with these layers frozen, ascending, from those of the uncompressed model.
        layers: What may be frozen.
        every: Layers that one measurement of the rest decides.
        progress: Told (stage, fraction).
    """
    ranked: list[Frozen] = []
    left = sorted(layers)
    while left:
        taken = [item.layer for item in ranked]
        progress("layers to freeze", len(taken) / (len(taken) + len(left)))
        apart = {layer: divergence(tuple(sorted((*taken, layer)))) for layer in left}
        for layer in sorted(left, key=lambda layer: (apart[layer], -layer))[:every]:
            taken.append(layer)
            left.remove(layer)
            together = apart[layer] if every == 1 else divergence(tuple(sorted(taken)))
            ranked.append(Frozen(layer, together))
    progress("layers to freeze", 1.0)
    return ranked


def order_of(trials: Trials, part: Any, space: Space, layers: Collection[int], progress: Progress) -> list[Frozen]:
    """``layers`` in the order in which to freeze them, measured with every token up to the horizon."""
    full = space.plan((), space.full(()))

    def divergence(frozen: tuple[int, ...]) -> float:
        plan = full.changed(kv_only=frozen)
        key = ["divergence", SAMPLES, plan_key(plan)]
        return float(trials.store.of(key, lambda: part.divergence(plan, SAMPLES)))

    return order(divergence, layers, max(1, round(space.layers / 9)), progress)
