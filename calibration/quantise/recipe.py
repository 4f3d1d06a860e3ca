"""What to do with one site: pure decisions from its weight and the statistics of what enters it.

Factors move difficulty between activations and weights: x W = (x / s) (s W), one s for each of K channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.quantise import blocks
from luvc_export.calibration.quantise.blocks import Rounded, compensated
from luvc_export.calibration.quantise.statistics import METHODS, Statistics
from luvc_export.core.options import choice
from luvc_export.core.precision import QuantisedPrecision
from luvc_export.errors import UsageError

Floats = NDArray[np.float32]

#: Exponents that activation-aware scaling tries; 0 is rounding to nearest.
_STEPS = 20
#: Factors stay within this of 1 either way, so that no channel vanishes in fp16.
_BOUND = 1e3


def smooth(seen: Statistics, weight: Floats, alpha: float) -> Floats:
    """SmoothQuant: s = max|x|^alpha / max|W|^(1 - alpha) by channel (arXiv 2211.10438, equation 4).

    Args:
        seen: Of the activations.
        weight: [K, N].
        alpha: 0 leaves all difficulty in the activations, 1 moves all of it to the weights.

    Returns:
        s [K].
    """
    outer = np.abs(weight).max(1)
    factor = np.maximum(seen.largest, 1e-5) ** alpha / np.maximum(outer, 1e-5) ** (1 - alpha)
    return _bounded(np.where(seen.largest > 0, factor, 1.0).astype(np.float32))


def activation_aware(seen: Statistics, weight: Floats, form: Callable[[Floats], blocks.Format | None]) -> Floats:
    """AWQ: s = mean|x|^a, a chosen by the error of the product on sampled rows (arXiv 2306.00978, equations 4 and 5).

    Clipping and compensation come after, with the chosen s.

    Args:
        seen: Of the activations.
        weight: [K, N].
        form: The four-bit format for a weight.

    Returns:
        s [K]; all ones where nothing does better.
    """
    rows, mean = seen.sample, np.maximum(seen.mean, np.float32(1e-5))
    wanted = rows @ weight
    best, chosen = np.inf, np.ones(len(mean), np.float32)
    for step in range(_STEPS):
        factor = np.power(mean, step / _STEPS, dtype=np.float32)
        factor = _bounded(factor / np.sqrt(factor.max() * factor.min()))
        scaled = weight * factor[:, None]
        format_ = form(scaled)
        assert format_ is not None
        rounded = blocks.nearest(scaled, format_)
        error = float(np.square((rows / factor) @ rounded.widened() - wanted).sum())
        if error < best:
            best, chosen = error, factor
    return chosen


def _bounded(factor: NDArray[np.floating]) -> Floats:
    return np.clip(factor, 1 / _BOUND, _BOUND).astype(np.float32)


#: Nats; chosen on the search splits of examples/glyph_deep (docs/calibration.md).
DIVERGENCE = 0.02


@dataclass(frozen=True)
class Recipe:
    """How to quantise.

    Args:
        precision: To what.
        method: How a range is chosen: ``max``, ``percentile`` or ``entropy``.
        percentile: For that method, in percent.
        smooth: SmoothQuant's alpha for INT8 activations, 0 to 1; 0 moves nothing.
        aware: Four-bit weights are scaled, clipped (AWQ) and rounded (GPTQ) by what activations say, instead of rounded
            to nearest.
        backend: Name and version of what else decided; empty for this package.
        divergence: For precisions that mix widths, how far predictions may move (KL in nats, mean over cases of the
            worst position): the worst products get eight bits until they do not. Infinite for four bits everywhere.
        named: What the new plan is called; empty: as the old one, with the precision's suffix.

    Raises:
        UsageError: A value that means nothing.
    """

    precision: QuantisedPrecision
    method: str = "max"
    percentile: float = 99.99
    smooth: float = 0.5
    aware: bool = True
    backend: str = ""
    divergence: float = DIVERGENCE
    named: str = ""

    def __post_init__(self) -> None:
        choice("--range", self.method, METHODS, "unknown way to choose a range")
        if not 50 <= self.percentile <= 100:
            raise UsageError("no such percentile", where="--percentile", got=self.percentile, expected="50 to 100")
        if not 0 <= self.smooth <= 1:
            raise UsageError("no such alpha", where="--smooth", got=self.smooth, expected="0 to 1")
        if not self.divergence >= 0:
            raise UsageError(
                "no such divergence", where="--divergence", got=self.divergence, expected="nats, 0 or more"
            )

    def to_json(self) -> dict[str, str]:
        """What of it concerns this precision, for people."""
        settings = {"named": self.named} if self.named else {}
        if self.precision.ranges:
            settings["range"] = f"{self.method} {self.percentile:g}" if self.method == "percentile" else self.method
        if self.backend:
            return settings | {"backend": self.backend}
        if self.precision.name == "int8":
            settings["smooth"] = f"{self.smooth:g}"
        if self.precision.weights == 4:
            settings["weights"] = "AWQ and GPTQ" if self.aware else "round to nearest"
        if self.precision.mixed:
            settings["divergence"] = f"{self.divergence:g}"
        return settings


@dataclass(frozen=True)
class Decision:
    """One site's: the rounded weight with ``factor`` in it, and the range of activations divided by it."""

    weight: Rounded
    factor: Floats | None = None
    range: float | None = None


@dataclass(frozen=True)
class Scales:
    """INT8 scales that were decided elsewhere.

    Args:
        activation: Of what enters the site: its range is 127 times this.
        weight: Of the columns [N].
    """

    activation: float
    weight: Floats


def decide(recipe: Recipe, weight: Floats, seen: Statistics | Scales | str) -> Decision | str:
    """What to do with a weight [K, N]; a text where it must stay high, saying why."""
    if isinstance(seen, str):
        return seen
    if isinstance(seen, Scales):
        return Decision(blocks.rounded_int8(weight, seen.weight), None, seen.activation * blocks.INT8_MAX)
    if recipe.precision.weights == 4:
        return _four_bits(recipe, weight, seen)
    if not recipe.precision.ranges:
        return Decision(blocks.rounded_int8(weight))
    choose = METHODS[recipe.method]
    if recipe.precision.name == "fp8":
        return Decision(blocks.rounded_fp8(weight), None, choose(seen, recipe.percentile))
    if not recipe.smooth:
        return Decision(blocks.rounded_int8(weight), None, choose(seen, recipe.percentile))
    factor = smooth(seen, weight, recipe.smooth)
    divided = seen.divided(factor)
    return Decision(blocks.rounded_int8(weight * factor[:, None]), factor, choose(divided, recipe.percentile))


def _four_bits(recipe: Recipe, weight: Floats, seen: Statistics) -> Decision | str:
    fp4 = recipe.precision.arithmetic == "nvfp4"
    form, sizes = (blocks.nvfp4, blocks.FP4_BLOCKS) if fp4 else (blocks.int4, blocks.INT4_BLOCKS)
    plain = form(weight)
    if plain is None:
        return f"no block of {', '.join(map(str, sizes))} divides its {len(weight)} rows"
    top = seen.maximum if recipe.precision.ranges else None
    if not recipe.aware:
        return Decision(blocks.nearest(weight, plain), None, top)
    factor = activation_aware(seen, weight, form)
    scaled = weight * factor[:, None]
    chosen = form(scaled)
    assert chosen is not None
    if top is not None:
        top = seen.divided(factor).maximum
    return Decision(compensated(scaled, chosen, seen.sample / factor), factor, top)
