"""What is compared: groups of plans, each group one question, all plans of a group at the same budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luvc_export.core.budgets import by_thirds, prefill_flops, rectangles, solve_speedup
from luvc_export.core.plan import EncoderPlan, LastLayer, LlmPlan, MergePass, Plan
from luvc_export.core.planning import PlanRequest, place_merges, solve, unshared
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.export.compression import scores

SEEDS = (0, 1, 2)
RHOS = (0.05, 0.1, 0.25, 0.5)
#: Baselines in the order of the tables; installed scores follow.
SCORES = ("stride", "norm", "keynorm", "v2drop", "dart", "scope", "maxmin", "fastv", "pyramiddrop")
SPEEDUPS = (1.4, 2.0, 2.4)

#: The low-pass filter as the abstract reads at first sight: the tokens it passes stay (sign and rho: reconstruction).
LITERAL = {"method": scores.method("low", rho=0.25), "axis": "token", "spectrum": "1d"}


@dataclass(frozen=True)
class Variant:
    """One row of a table: ``name`` for people, plans whose accuracy is averaged (seeds), and a remark."""

    name: str
    plans: tuple[Plan, ...]
    remark: str = ""


@dataclass(frozen=True)
class Shapes:
    """What plans are made for."""

    grid: tuple[int, int]
    llm: DecoderShape
    encoder: EncoderShape

    @property
    def units(self) -> int:
        """Visual tokens of a picture, uncompressed."""
        return self.grid[0] * self.grid[1]

    def none(self) -> Plan:
        """The uncompressed plan."""
        return self.plan((self.units,) * self.llm.layers, "none", "full")

    def solved(self, request: PlanRequest) -> Plan:
        """The plan of ``request``, with what its score says of itself."""
        return scores.described(solve(request, self.grid, self.llm, self.encoder))

    def plan(self, keep: Sequence[int], schedule: str, last_layer: LastLayer = "drop") -> Plan:
        """A plan with budgets ``keep`` and nothing else."""
        return Plan(
            EncoderPlan(self.grid),
            LlmPlan(unshared(tuple(keep), self.llm), last_layer=last_layer, shared=self.llm.shared),
            schedule=schedule,
        )


def horizon(shapes: Shapes) -> list[Variant]:
    """All visual tokens go before layer l."""
    variants = []
    for layer in range(shapes.llm.layers):
        keep = (shapes.units,) * layer + (0,) * (shapes.llm.layers - layer)
        variants.append(Variant(str(layer), (shapes.plan(keep, "horizon"),)))
    return variants


def readings(plan: Plan) -> Iterator[Variant]:
    """Every reading of the spectrum score at the budgets of ``plan``: sign, rho, axis, 1-D and 2-D."""
    ways = (("token", "1d"), ("token", "2d"), ("channel", "1d"))
    for score in ("low", "residual", "ratio"):
        for axis, spectrum in ways:
            for rho in RHOS:
                reading = plan.changed(method=scores.method(score, rho=rho), axis=axis, spectrum=spectrum)
                yield Variant(f"{score}, {axis} {spectrum}, rho {rho:g}", (reading,))


def methods(plan: Plan, tuned: Plan, skip: Sequence[str] = (), scorer: str = "") -> list[Variant]:
    """Every score and reducer at the budgets of ``plan``.

    ``tuned`` carries the settings that a search chose; ``skip`` are left out, ``scorer`` is the hash of a learned one.
    """
    best = plan.changed(**filter_of(scores.described(tuned)))
    variants = [
        Variant("SPU, the abstract's reading", (plan.changed(**LITERAL),), "low, token 1d, rho 0.25"),
        Variant("SPU, settings searched", (best,), filter_name(best)),
        Variant("random", random(plan), "mean of 3 seeds"),
    ]
    early = plan.keep[0] < plan.vision_tokens
    installed = [name for name in scores.names() if name not in scores.built_in()]
    usable = [
        name
        for name in (*SCORES, *installed)
        if name not in skip and not (early and scores.find(name).needs_layer_before)
    ]
    variants += [Variant(name, (plan.changed(method=scores.method(name)),)) for name in usable]
    if scorer:
        variants.append(Variant("learned", (plan.changed(method=scores.method("learned", scorer=scorer)),)))
    return [*variants, Variant("merge", (merged(plan),), "ours: merging inside the LLM")]


def random(plan: Plan) -> tuple[Plan, ...]:
    """``plan`` with random tokens, for every seed."""
    return tuple(plan.changed(method=scores.method("random", seed=seed)) for seed in SEEDS)


def filter_of(plan: Plan) -> dict[str, Any]:
    """Score and filter of a plan, for ``Plan.changed``."""
    return {"method": plan.llm.method, "axis": plan.llm.axis, "spectrum": plan.llm.spectrum}


def filter_name(plan: Plan) -> str:
    """The same for people."""
    method = plan.llm.method
    return f"{method.name}, {plan.llm.axis} {plan.llm.spectrum}, rho {method['rho']:g}"


def merged(plan: Plan) -> Plan:
    """The merging plan next to the budgets of ``plan``."""
    return plan.changed(keep=rectangles(plan.merged_grid, plan.keep), reducer="merge")


def halved(shapes: Shapes, text: int, speedup: float = 2.0) -> Plan:
    """No merging in the encoder; LLM prefill FLOPs divided by ``speedup``."""
    keep = solve_speedup(shapes.llm, shapes.units, shapes.units, text, speedup, fading=by_thirds)
    return shapes.plan(keep, f"speedup {speedup:g}")


def shaped(shapes: Shapes, text: int, weights: Sequence[float], name: str, speedup: float = 2.0) -> Plan:
    """Budgets in the proportions ``weights``, at most all tokens, scaled until FLOPs are divided by ``speedup``."""
    target = sum(prefill_flops(shapes.llm, shapes.none().keep, text)) / speedup
    low, high = 0.0, 1.0 * shapes.units / max(min(w for w in weights if w), 1e-9)
    for _ in range(60):
        middle = (low + high) / 2
        keep = [min(shapes.units, round(middle * weight)) for weight in weights]
        low, high = (middle, high) if sum(prefill_flops(shapes.llm, keep, text)) <= target else (low, middle)
    keep = [min(shapes.units, round(low * weight)) for weight in weights]
    return shapes.plan(keep, name, "drop" if keep[-1] == 0 else "full")


def shapes_of_schedule(shapes: Shapes, text: int) -> list[Plan]:
    """Other ways to spend half of the FLOPs than ``halved``: where along the depth the tokens are."""
    layers = shapes.llm.layers
    line = [1 - layer / (layers - 1) for layer in range(layers)]
    return [
        shaped(shapes, text, [1.0] * layers, "even, none dropped at the end"),
        shaped(shapes, text, [*[1.0] * (layers - 1), 0.0], "even, none at the last layer"),
        shaped(shapes, text, line, "straight line to none"),
        shaped(shapes, text, [100.0, *[1.0] * (layers - 2), 0.0], "all at layer 0, then even, none at the last"),
    ]


def one_shot(shapes: Shapes, count: int) -> Plan:
    """``count`` tokens from before the first layer to the end: what host-side pruning does."""
    return shapes.plan((count,) * shapes.llm.layers, "one shot", "full")


def smaller(shapes: Shapes, tokens: float) -> Plan:
    """The uncompressed model on a smaller picture: the largest grid of its shape with at most ``tokens`` tokens."""
    rows, columns = shapes.grid
    fits = [
        (r, c)
        for r in range(1, rows + 1)
        for c in {max(1, int(r * columns / rows)), min(columns, -(-r * columns // rows))}
        if r * c <= tokens
    ]
    grid = max(fits, key=lambda size: (size[0] * size[1], -abs(size[0] / rows - size[1] / columns)))
    return dataclasses.replace(shapes, grid=grid).none()


def downsampled(shapes: Shapes, tokens: float, name: str = "downsampling") -> Variant:
    """``smaller`` as a row, whose remark is the grid."""
    plan = smaller(shapes, tokens)
    return Variant(name, (plan,), f"{plan.grid[0]}x{plan.grid[1]} units")


def encoded(shapes: Shapes, encoder: EncoderPlan, schedule: str) -> Plan:
    """The plan whose LLM keeps all that ``encoder`` gives."""
    return Plan(encoder, LlmPlan((encoder.tokens,) * shapes.llm.layers, last_layer="full"), schedule=schedule)


def encoder_merges(shapes: Shapes, share: float) -> list[Variant]:
    """Ways to leave about ``share`` of the units before the LLM, which then prunes nothing."""
    blocks = [block for block in shapes.encoder.full_attention if 2 * (block + 1) >= shapes.encoder.blocks]
    last = place_merges(shapes.grid, share, shapes.encoder, (blocks[-1],))
    spread = place_merges(shapes.grid, share, shapes.encoder)

    def after(merges: tuple[MergePass, ...], name: str, remark: str, **switches: str) -> Variant:
        encoder = EncoderPlan(shapes.grid, merges, **switches)  # type: ignore[arg-type]
        return Variant(name, (encoded(shapes, encoder, "merge only"),), remark)

    variants = [after(last, "OIM, mean", f"after block {blocks[-1]}")]
    count = variants[0].plans[0].vision_tokens
    variants.append(after(last, "OIM, max", f"after block {blocks[-1]}", merge_mode="max"))
    variants.append(after(last, "OIM, several positions", f"after block {blocks[-1]}", positions="multi"))
    if spread != last:
        variants.append(after(spread, "OIM, spread", f"after blocks {', '.join(str(m.block) for m in spread)}"))
    if len(shapes.encoder.full_attention) > 1:
        early = place_merges(shapes.grid, share, shapes.encoder, shapes.encoder.full_attention[:1])
        variants.append(after(early, "OIM, early", f"after block {shapes.encoder.full_attention[0]}"))
    shot = one_shot(shapes, count)
    variants += methods(shot, shot.changed(method=scores.method(rho=0.5)), skip=("v2drop", "fastv", "norm"))[2:]
    return [*variants, Variant("downsampling", (smaller(shapes, count),), "bicubic, before the processor")]
