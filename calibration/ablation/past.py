"""Past the paper: every score with layers frozen and without, at equal FLOPs, beside smaller pictures of equal time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from luvc_export.calibration.ablation import variants
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.core.plan import EncoderPlan, LlmPlan, Method, Plan
from luvc_export.core.plan.cost import cost
from luvc_export.errors import UsageError
from luvc_export.export.compression import scores

#: Prefill FLOPs are divided by this.
SPEEDUP = 3.0
#: Scores by the name of their row; the learned one follows where there is a scorer.
METHODS: dict[str, Method] = {
    "residual, rho 0.5": scores.method("residual", rho=0.5),
    "residual, rho 0.1": scores.method("residual", rho=0.1),
    "scope": scores.method("scope", rho=0.5),
    "maxmin": scores.method("maxmin"),
    "dart": scores.method("dart"),
    "keynorm": scores.method("keynorm"),
    "stride": scores.method("stride"),
}
#: Shares of the units of smaller pictures; times between them are interpolated.
SIZES = (0.85, 0.7, 0.5, 0.35, 0.2)
#: Share of the layers before the last that are frozen.
FROZEN = 0.7


def at_speedup(
    shapes: Shapes, text: int, speedup: float, kv_only: tuple[int, ...], method: Method = scores.method()
) -> Plan:
    """The even plan of most tokens whose prefill takes ``speedup`` times fewer FLOPs.

    Raises:
        UsageError: Not even one token is so cheap.
    """
    whole = cost(shapes.none(), shapes.llm, text).flops
    for keep in range(shapes.units - 1, 0, -1):  # all of them leave nothing to choose
        llm = LlmPlan((keep,) * shapes.llm.layers, method, last_layer="kv_only", kv_only=kv_only)
        plan = Plan(EncoderPlan(shapes.grid), llm, schedule="even")
        if whole / cost(plan, shapes.llm, text).flops >= speedup:
            return plan
    raise UsageError("no plan is so cheap", where="speedup", got=speedup, expected="what one token left reaches")


def rows(scorer: str = "") -> dict[str, Method]:
    """``METHODS``, and the learned scorer of this hash."""
    return METHODS | ({"learned": scores.method("learned", scorer=scorer)} if scorer else {})


def methods(shapes: Shapes, text: int, speedup: float, frozen: tuple[int, ...], scorer: str = "") -> list[Variant]:
    """Every score and random tokens, with ``frozen`` layers and without, and a smaller picture, at equal FLOPs."""
    equal_flops = []
    for label, still in (("frozen", frozen), ("not frozen", ())) if frozen else (("not frozen", ()),):
        for name, method in rows(scorer).items():
            plan = at_speedup(shapes, text, speedup, still, method)
            equal_flops.append(Variant(f"{name}, {label}", (plan,), f"{plan.keep[0]} tokens"))
        plan = at_speedup(shapes, text, speedup, still)
        equal_flops.append(
            Variant(f"random, {label}", variants.random(plan), f"{plan.keep[0]} tokens, mean of 3 seeds")
        )
    whole = cost(shapes.none(), shapes.llm, text).flops
    sizes = (variants.downsampled(shapes, tokens) for tokens in range(shapes.units, 0, -1))
    small = (each for each in sizes if whole / cost(each.plans[0], shapes.llm, text).flops >= speedup)
    return [*equal_flops, *islice(small, 1)]


def smaller(shapes: Shapes) -> list[Variant]:
    """The uncompressed model, and on smaller pictures."""
    sizes = (variants.downsampled(shapes, share * shapes.units) for share in SIZES)
    return [Variant("uncompressed", (shapes.none(),)), *dict.fromkeys(sizes)]


def beside(time: float, down: Sequence[Any]) -> float | None:
    """Accuracy of a smaller picture, of rows ``down``, in ``time`` ms to its first token; None outside their times."""
    times, values = zip(*sorted((row.times.ttft, row.accuracy.value) for row in down), strict=True)
    return float(np.interp(time, times, values)) if times[0] <= time <= times[-1] else None


def compared(study: Any, some: Sequence[Variant], split: str) -> tuple[list[Any], list[Any]]:
    """Rows (``study.Row``) of ``some`` and of smaller pictures, all timed in the same turns."""
    down = smaller(study.shapes)
    every = [*some, *down]
    rows = study.timed(study.rows("past the paper", every, split), every)
    return rows[: len(some)], rows[len(some) :]


def section(study: Any, scorer: str = "") -> dict[str, Any]:
    """The section of ``luvc-export ablate``; layers that move predictions least on the search split are frozen."""
    from luvc_export.calibration.budgets import freezing

    engine, none = study.engines["search"], study.shapes.none()
    cases = range(min(freezing.SAMPLES, len(engine.cases)))
    uncompressed = cache(lambda: engine.predictions(none, cases))

    def divergence(frozen: tuple[int, ...]) -> float:
        plan = none.changed(last_layer="kv_only", kv_only=frozen)
        key = ["divergence", len(engine.cases), len(cases), list(frozen)]
        return float(study.store.of(key, lambda: freezing.moved(uncompressed(), engine.predictions(plan, cases))))

    layers = study.shapes.llm.layers - 1
    ranked = freezing.order(divergence, range(layers), 1, study.progress)
    frozen = tuple(sorted(each.layer for each in ranked[: int(FROZEN * layers)]))
    some = methods(study.shapes, study.text, SPEEDUP, frozen, scorer)
    rows, down = compared(study, some, "side")
    return {"speedup": SPEEDUP, "frozen": list(frozen), "equal": rows, "down": down}
