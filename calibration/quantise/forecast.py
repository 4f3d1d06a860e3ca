"""How long calibrating will take, and how much memory and disk: said before it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from time import monotonic

import onnx_ir as ir

from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise import agreement
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.sites import Site, constants, sites
from luvc_export.errors import Progress

#: Seconds that rounding takes for a number of a weight, by bits: SmoothQuant and a scale a column, and AWQ with GPTQ
#: after it. ``recipe.decide`` on 2,048 x 8,192 numbers, one thread of an EPYC with AVX2.
_ROUNDING = {8: 4e-8, 4: 8e-7}


#: Memory at most, by the bytes of the weights and beside them. At the peak 2.3 times as much was held for 12 + 6 blocks
#: of SmolVLM-256M, 3.7 times for 3 + 3 of Qwen2.5-VL-3B (ONNX Runtime, fp32), each beside half a GiB of libraries.
_HELD, _BESIDE = 4, 2**29


@dataclass(frozen=True)
class Forecast:
    """What is to come, by the time that one case took.

    Attributes:
        seconds: Where the answers agree with nothing kept high but the defaults.
        most: Where products must be ranked, and halving and sparing try as many choices as they can.
        memory: Bytes held at once, at most: the plan's graphs and those of a trial, as ONNX Runtime packs them.
        disk: Bytes of the new plan's weights; as many again while trials are written.
    """

    seconds: float
    most: float
    memory: int
    disk: int

    def __str__(self) -> str:
        minutes = f"{self.seconds / 60:.1f} minutes, or {self.most / 60:.1f} where answers differ"
        return f"about {minutes}; at most {self.memory / 2**30:.2f} GiB of memory, {self.disk / 2**30:.2f} GiB on disk"


def foretelling(
    tell: Callable[[Forecast], None],
    progress: Progress,
    recipe: Recipe,
    graphs: Iterable[ir.Graph],
    keep: Collection[str],
    parts: tuple[CalibrationSet, CalibrationSet],
) -> Progress:
    """``progress`` that tells a forecast too, by the second case that gives ranges: the first loads and packs.

    ``graphs`` are of the plan, ``keep`` sites that stay high in any case; ``parts`` give ranges, and are held out.
    """
    marks, (fitted, held) = [monotonic()], (len(part.cases) for part in parts)
    read: dict[str, int] = {}
    written: dict[str, int] = {}
    chosen: list[Site] = []
    for graph in graphs:
        own = [site for name, site in sites(graph).items() if name not in keep and not site.high]
        tensors = {
            name: one.const_value.nbytes for name, one in graph.initializers.items() if one.const_value is not None
        }
        read |= tensors
        written |= tensors if own else {}  # a graph that stays as it is needs no weights of its own
        chosen += own
    weights = [root.const_value for site in chosen for root in constants(site.weight) or ()]
    numbers, wide = (sum(getattr(weight, part) for weight in weights) for part in ("size", "nbytes"))
    memory = _HELD * sum(read.values()) + _BESIDE
    disk = sum(written.values()) - wide + numbers * recipe.precision.weights // 8

    def heard(stage: str, done: float) -> None:
        progress(stage, done)
        marks.append(monotonic())
        if len(marks) == 1 + min(2, fitted):
            each = marks[-1] - marks[-2]
            seconds = (fitted + 2 * held) * each + numbers * _ROUNDING[recipe.precision.weights]
            trials = 2 * math.ceil(math.log2(len(chosen) + 1))
            ranked = len(chosen) * min(fitted, agreement.OBSERVED)
            tell(Forecast(seconds, seconds + (ranked + trials * held) * each, memory, disk))

    return heard
